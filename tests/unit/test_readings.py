"""What numbers of Prometheus mean for a release."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dspy_operator.api.rollout import PrometheusQuery, Stream
from dspy_operator.domain.analysis.readings import Reading, filled, number_of, told, worst

MAX, COMPARED = PrometheusQuery("q", max=0.5), PrometheusQuery("$revision", tolerance_percent=10)


def vector(*values: Any) -> dict[str, Any]:
    found = [{"metric": {}, "value": [1.0, value]} for value in values]
    return {"status": "success", "data": {"resultType": "vector", "result": found}}


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        (vector("0.25"), 0.25),
        ({"status": "success", "data": {"resultType": "scalar", "result": [1.0, "3"]}}, 3.0),
        (vector(), "the query has no data"),
        (vector("1", "2"), "the query has 2 series; it must have one"),
        (vector("NaN"), "the query says nan"),
        (vector("+Inf"), "the query says inf"),
        ({"status": "error", "error": "parse error"}, "Prometheus refuses the query: parse error"),
        (
            {"status": "success", "data": {"resultType": "matrix", "result": []}},
            "the query is a matrix; it must be one number",
        ),
    ],
)
def test_only_one_number_is_an_answer(answer: dict[str, Any], number: object) -> None:
    assert number_of(answer) == number


@pytest.mark.parametrize(
    ("query", "reading", "above", "message"),
    [
        (MAX, Reading(), None, "not asked yet"),
        (MAX, Reading(problem="the query has no data"), None, "the query has no data"),
        (MAX, Reading(0.5, problem=""), False, "0.5, at most 0.5"),
        (MAX, Reading(0.75, problem=""), True, "0.75, above 0.5"),
        (COMPARED, Reading(1.1, 1.0, ""), False, "1.1, at most 1.1, 10% above 1 of stable"),
        (COMPARED, Reading(1.2, 1.0, ""), True, "1.2, above 1.1, 10% above 1 of stable"),
        (COMPARED, Reading(-1.0, -1.0, ""), False, "-1, at most -0.9, 10% above -1 of stable"),
    ],
)
def test_a_reading_in_words(query: PrometheusQuery, reading: Reading, above: bool | None, message: str) -> None:
    found = told(query, reading)
    assert (found.above, found.message) == (above, message)


def test_what_is_switched_off_or_dry_holds_nothing() -> None:
    readings = {"a": Reading(math.inf, problem=""), "b": Reading(1.0, problem=""), "c": Reading(1.0, problem="")}
    off, dry = Stream("b", prometheus=MAX, enabled=False), Stream("c", prometheus=MAX, dry_run=True)
    assert worst((off, dry), readings, above=True) is None
    assert worst((off, dry, Stream("a", prometheus=MAX)), readings, above=True) == ("a", "inf, above 0.5")
    assert worst((Stream("d", prometheus=MAX),), readings, above=None) == ("d", "not asked yet")


def test_only_our_names_are_filled_into_a_query() -> None:
    query = 'sum(x{revision="$candidate",path=~"a$"}) / ${other}'
    assert filled(query, {"candidate": "qa-1"}) == 'sum(x{revision="qa-1",path=~"a$"}) / ${other}'
