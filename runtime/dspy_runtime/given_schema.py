"""JSON Schemas that `serving.schema` gives, for programs whose own types do not tell what they take and return.

Checked on the loop of the requests, so nothing in them may take long: patterns take linear time, and what has no such
form (look-around, back-references) is no pattern here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, NoReturn

import jsonschema_rs
from pydantic_core import from_json

from dspy_runtime.endings import MOST_FIELDS, UnfitInputError
from dspy_runtime.failures import SchemaError
from dspy_runtime.settings import SchemaSettings

_TELLING = ("required", "additionalProperties", "unevaluatedProperties")
"""Keywords whose message names fields; the others' messages hold the value."""


class GivenSchema:
    """What both sides must be, where that is given."""

    def __init__(self, settings: SchemaSettings) -> None:
        """Raises SchemaError for what is no JSON Schema, or refers to what is not in it."""
        self.input = settings.input
        self.output = settings.output
        self._taken = _validator("input", settings.input)
        self._returned = _validator("output", settings.output)

    def names(self) -> frozenset[str]:
        """The inputs that are named."""
        return frozenset((self.input or {}).get("properties", {}))

    def check_fields(self, taken: set[str], returned: set[str] | None) -> None:
        """Raises SchemaError when the input's schema names fields that the program does not have, or the output's
        requires some that it cannot answer, as far as these are known."""
        _refuse("input: the program takes no", self.names() - taken, "it takes", taken)
        required = set((self.output or {}).get("required", ()))
        if returned is not None:
            _refuse("output: the program answers no", required - returned, "it answers", returned)

    def check(self, body: bytes) -> None:
        """Raises UnfitInputError for an input that does not fit."""
        if self._taken is None:
            return
        found = islice(self._taken.iter_errors(from_json(body)), MOST_FIELDS)
        problems = [_problem(self.input or {}, error) for error in found]
        if problems:
            raise UnfitInputError(problems)

    def select(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The fields of an answer that the output's schema has a word for; all, where it names none."""
        names = (self.output or {}).get("properties")
        return {name: fields[name] for name in names if name in fields} if names else fields

    def accepts(self, answer: bytes) -> bool:
        """True for an answer that fits."""
        return self._returned is None or bool(self._returned.is_valid(from_json(answer)))


def _validator(side: str, schema: Mapping[str, Any] | None) -> Any:
    if schema is None:
        return None

    def refuse(address: str) -> NoReturn:
        raise ValueError(f"{address} is fetched from nowhere")

    try:
        return jsonschema_rs.validator_for(
            dict(schema), pattern_options=jsonschema_rs.RegexOptions(), retriever=refuse, validate_formats=True
        )
    except ValueError as error:
        path = [str(part) for part in getattr(error, "instance_path", ())]
        where = ".".join(["serving.schema", side, *path])
        raise SchemaError(f"{where}: {getattr(error, 'message', error)}") from error


def _refuse(what: str, unknown: set[str] | frozenset[str], has: str, known: set[str]) -> None:
    if unknown:
        names, all_names = ", ".join(sorted(unknown)), ", ".join(sorted(known))
        raise SchemaError(f"serving.schema.{what} {names}; {has} {all_names}")


def _problem(schema: Mapping[str, Any], error: Any) -> tuple[str, str]:
    field = ".".join(str(part) for part in error.instance_path)
    keyword = error.kind.name
    if keyword in _TELLING:
        return field, str(error.message)
    return field, f"Must be of {keyword} {_at(schema, error.schema_path)}".rstrip()


def _at(schema: Any, path: Sequence[str | int]) -> Any:
    """What stands at a place of a schema; nothing for one that a reference leads to."""
    for part in path:
        try:
            schema = schema[part]
        except (KeyError, IndexError, TypeError):
            return ""
    return schema
