"""JSON Schemas that `serving.schema` gives, for programs whose own types do not tell what they take and return."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

import jsonschema
from pydantic_core import from_json
from referencing import Registry

from dspy_runtime.endings import MOST_FIELDS, UnfitInputError
from dspy_runtime.failures import SchemaError
from dspy_runtime.settings import SchemaSettings

_TELLING = ("required", "additionalProperties", "dependentRequired")
"""Keywords whose message names fields; the others' messages hold the whole value."""


class GivenSchema:
    """What both sides must be, where that is given."""

    def __init__(self, settings: SchemaSettings) -> None:
        """Raises SchemaError for what is no JSON Schema."""
        self.input = settings.input
        self.output = settings.output
        self._taken = _validator("input", settings.input)
        self._returned = _validator("output", settings.output)

    def names(self) -> frozenset[str]:
        """The inputs that are named."""
        return frozenset((self.input or {}).get("properties", {}))

    def check_fields(self, fields: set[str]) -> None:
        """Raises SchemaError when the input's schema names fields that the program does not have."""
        unknown = sorted(self.names() - fields)
        if unknown:
            has = ", ".join(sorted(fields))
            raise SchemaError(f"serving.schema.input: the program takes no {', '.join(unknown)}; it takes {has}")

    def check(self, body: bytes) -> None:
        """Raises UnfitInputError for an input that does not fit."""
        if self._taken is None:
            return
        problems = [_problem(error) for error in islice(self._taken.iter_errors(from_json(body)), MOST_FIELDS)]
        if problems:
            raise UnfitInputError(problems)

    def select(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The fields of an answer that the output's schema has a word for; all, where it names none."""
        names = (self.output or {}).get("properties")
        return {name: fields[name] for name in names if name in fields} if names else fields

    def accepts(self, answer: bytes) -> bool:
        """True for an answer that fits."""
        return self._returned is None or self._returned.is_valid(from_json(answer))


def _validator(side: str, schema: Mapping[str, Any] | None) -> Any:
    if schema is None:
        return None
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        where = ".".join(["serving.schema", side, *(str(part) for part in error.absolute_path)])
        raise SchemaError(f"{where}: {error.message}") from error
    return kind(schema, registry=Registry())  # an empty one: no reference is fetched from anywhere


def _problem(error: jsonschema.ValidationError) -> tuple[str, str]:
    field = ".".join(str(part) for part in error.absolute_path)
    said = error.message if error.validator in _TELLING else f"Must be of {error.validator} {error.validator_value}"
    return field, said
