"""What the served paths take and answer, as OpenAPI 3.1: `/schema` in the form that tools and people read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dspy_runtime.batch import MOST_ROWS

VERSION = "3.1.0"
_ANYTHING: dict[str, Any] = {"type": "object"}
_ERROR: dict[str, Any] = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "outcome": {"type": "string", "description": "Whose the failure is, as x-dspy-outcome says"},
                "code": {"type": "string", "description": "What went wrong, for programs"},
                "message": {"type": "string", "description": "What went wrong, for people"},
                "requestId": {"type": "string", "description": "As logs know the request"},
                "fields": {
                    "type": "array",
                    "description": "What is wrong with which field of the input",
                    "items": {
                        "type": "object",
                        "properties": {"field": {"type": "string"}, "problem": {"type": "string"}},
                        "required": ["field", "problem"],
                    },
                },
            },
            "required": ["outcome", "code", "message", "requestId"],
        }
    },
    "required": ["error"],
}
_REFUSALS = {
    "400": "A header that says nothing",
    "408": "The body did not come in time",
    "413": "Too large, or longer than the language model takes",
    "422": "Not what the program takes, or refused by a guardrail",
    "429": "The provider limits the rate, or the day's budget is spent",
    "500": "The program failed",
    "502": "The provider failed, or an answer is none of this program's",
    "503": "No room, or the provider cannot be reached",
    "504": "Too late",
}
_HEADERS = (
    ("x-dspy-deadline-ms", {"type": "integer", "minimum": 1}, "How long the client waits"),
    ("x-request-id", {"type": "string"}, "What the client calls its request, in logs"),
)


def document(schema: Mapping[str, Any], title: str) -> dict[str, Any]:
    """The document of a program; `schema` is the answer of `/schema`."""
    sides = {name: schema.get(name.lower()) or _ANYTHING for name in ("Input", "Output")}
    schemas: dict[str, Any] = {"Error": _ERROR}
    for name, side in sides.items():
        schemas |= _hoisted(name, side)
    taken, answered, error = (_ref(name) for name in ("Input", "Output", "Error"))
    rows = {"type": "array", "minItems": 1, "maxItems": MOST_ROWS, "items": taken}
    many = {"type": "object", "properties": {"inputs": rows}, "required": ["inputs"], "additionalProperties": False}
    each = {"type": "array", "items": {"anyOf": [answered, error]}}
    outputs = {"type": "object", "properties": {"outputs": each}, "required": ["outputs"]}
    predicted = _content(answered) | {
        "text/event-stream": {"schema": {"type": "string", "description": "part, then prediction or error"}}
    }
    return {
        "openapi": VERSION,
        "info": {"title": title, "version": "1"},
        "servers": [{"url": "."}],
        "paths": {
            "/predict": {"post": _asked("One prediction", taken, predicted, "predict")},
            "/predict/batch": {"post": _asked("Many predictions", many, _content(outputs), "predict_batch")},
            "/schema": {"get": _told("What the program takes and returns", "schema")},
        },
        "components": {"schemas": schemas},
    }


def _asked(summary: str, taken: Mapping[str, Any], answered: Mapping[str, Any], name: str) -> dict[str, Any]:
    errors = {status: {"description": words, "content": _content(_ref("Error"))} for status, words in _REFUSALS.items()}
    return {
        "summary": summary,
        "operationId": name,
        "parameters": [
            {"name": header, "in": "header", "schema": schema, "description": words}
            for header, schema, words in _HEADERS
        ],
        "requestBody": {"required": True, "content": _content(taken)},
        "responses": {"200": {"description": "Answered", "content": answered}, **errors},
    }


def _told(summary: str, name: str) -> dict[str, Any]:
    answered = {"200": {"description": "Answered", "content": _content(_ANYTHING)}}
    return {"summary": summary, "operationId": name, "responses": answered}


def _content(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _hoisted(side: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON Schema that stands alone as schemas of the document: its references begin at its own root."""
    places = {"#": f"#/components/schemas/{side}"}
    found: dict[str, Any] = {}
    for group in ("$defs", "definitions"):
        for name in schema.get(group, ()):
            places[f"#/{group}/{name}"] = f"#/components/schemas/{side}.{name}"
    for group in ("$defs", "definitions"):
        for name, each in schema.get(group, {}).items():
            found[f"{side}.{name}"] = _moved(each, places)
    own = {name: value for name, value in schema.items() if name not in ("$defs", "definitions", "$schema", "$id")}
    return {side: _moved(own, places), **found}


def _moved(value: Any, places: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_moved(each, places) for each in value]
    if not isinstance(value, Mapping):
        return value
    return {
        name: places.get(each, each) if name == "$ref" and isinstance(each, str) else _moved(each, places)
        for name, each in value.items()
    }
