"""The OpenAPI document of a program: its schemas stand where its references point."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema_rs import validator_for

from dspy_runtime.openapi import document

NESTED = {
    "$defs": {"Ticket": {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/Ticket"}, {}]}}}},
    "type": "object",
    "properties": {"ticket": {"$ref": "#/$defs/Ticket"}},
    "required": ["ticket"],
}
OLD = {"definitions": {"A": {"type": "integer"}}, "type": "object", "properties": {"a": {"$ref": "#/definitions/A"}}}
ITSELF = {"type": "object", "properties": {"inner": {"$ref": "#"}}}


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


@pytest.mark.parametrize("given", [NESTED, OLD, ITSELF, {"type": "object"}, None])
def test_every_reference_leads_somewhere_within_the_document(given: dict[str, Any] | None) -> None:
    found = document({"input": given, "output": given}, "qa")
    assert found["openapi"].startswith("3.1")
    for reference in references(found):
        place: Any = found
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
        assert isinstance(place, dict)


def test_the_schema_of_an_input_takes_what_the_program_takes() -> None:
    found = document({"input": NESTED, "output": None}, "qa")
    schema = {"$ref": "#/components/schemas/Input", "components": found["components"]}
    check = validator_for(schema)
    assert check.is_valid({"ticket": {"next": {}}})
    assert not check.is_valid({"ticket": 3})
    assert not check.is_valid({})
