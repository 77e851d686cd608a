"""What somebody changed in an object is found, and what the API server adds is not."""

from __future__ import annotations

from typing import Any

import pytest

from dspy_operator.domain.drift import difference


@pytest.mark.parametrize(
    ("actual", "desired", "field"),
    [
        ({"a": 1, "defaulted": True, "list": [{"x": 1, "y": 2}]}, {"a": 1, "list": [{"x": 1}]}, None),
        ({"a": 1}, {"a": 1, "annotations": {}, "env": [], "value": "", "none": None}, None),
        ({}, {"false": False, "zero": 0}, ".false"),
        ({"a": 2}, {"a": 1}, ".a"),
        ({"spec": {"selector": {"a": "1", "b": "2"}}}, {"spec": {"selector": {"a": "1"}}}, ".spec.selector"),
        ({"a": {}}, {"a": {"b": {"c": 1}}}, ".a.b"),
        ({"a": {"b": 1}}, {"a": {"b": {"c": 1}}}, ".a.b"),
        ({"list": [{"x": 1}]}, {"list": [{"x": 1}, {"x": 2}]}, ".list"),
        ({"list": [{"x": 1}, {"x": 3}]}, {"list": [{"x": 1}, {"x": 2}]}, ".list[1].x"),
    ],
)
def test_the_first_field_that_differs_is_named(actual: Any, desired: Any, field: str | None) -> None:
    assert difference(actual, desired) == field
