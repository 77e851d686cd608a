"""What a program takes and returns, as pydantic models, and where that knowledge came from.

A signature (Predict, ReAct, ChainOfThought) tells both sides. Else the annotations of `aforward` or `forward` tell the
input. Else anything goes. Where types are known, a wrong request is refused before any call of the language model.
Types are as strict as their JSON Schema: "3" is no integer. What a program's types do not tell, `serving.schema` may.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal, get_type_hints

import dspy
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.fields import FieldInfo
from pydantic_core import from_json, to_json

from dspy_runtime.answers import answer_fields
from dspy_runtime.calling import called
from dspy_runtime.endings import MOST_FIELDS, UnfitInputError
from dspy_runtime.given_schema import GivenSchema
from dspy_runtime.settings import SchemaSettings

_STEERING = frozenset({"self", "signature", "new_signature", "demos", "config", "lm", "_trace"})
"""What dspy.Predict reads of its keywords besides inputs: prompts and costs are not for clients to choose where a
program hands on whatever it is given."""


@dataclass(frozen=True, slots=True)
class Schema:
    """The fields of a program. `source` is signature, annotations or free-form; free-form checks nothing but JSON.

    `underivable` are the parameters whose annotations say nothing here and of which `given` says nothing, so that
    anything is taken for them.
    """

    source: str
    input: type[BaseModel]
    output: type[BaseModel] | None
    underivable: tuple[str, ...]
    given: GivenSchema

    def document(self) -> dict[str, Any]:
        """The answer of `/schema`: JSON Schema of both sides, null where it is not known."""
        return {
            "source": self.source,
            "given": [side for side in ("input", "output") if getattr(self.given, side) is not None],
            "input": self.given.input or _json_schema(self.input),
            "output": self.given.output or _json_schema(self.output),
        }

    def text_fields(self) -> frozenset[str]:
        """The fields of the answer that are known to be text."""
        fields = (self.document()["output"] or {}).get("properties", {})
        return frozenset(
            name for name, told in fields.items() if isinstance(told, dict) and told.get("type") == "string"
        )

    def arguments(self, body: bytes) -> dict[str, Any]:
        """A request's body as the program's arguments. Raises pydantic.ValidationError and UnfitInputError."""
        self.given.check(body)
        try:
            checked = self.input.model_validate_json(body, strict=True)
        except ValidationError as error:
            whole = _with_whole_numbers(body, error)
            if whole is None:
                raise
            checked = self.input.model_validate_json(whole, strict=True)
        values = checked.__dict__
        known = {field.alias or name: values[name] for name, field in self.input.model_fields.items()}
        more = checked.model_extra or {}
        told = self.given.names() | known.keys()
        if forbidden := sorted(more.keys() & _STEERING - told):
            raise UnfitInputError([(name, "Extra inputs of this name are not permitted") for name in forbidden])
        return {**known, **more}

    def problems_of_answer(self, fields: Mapping[str, Any]) -> list[str]:
        """Why an answer with these fields, and perhaps others, would be none of the program's, as far as is known."""
        if self.output is None:
            return []
        try:
            self.output.model_validate_json(to_json(dict(fields)), strict=True)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False, include_context=False)
            return [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in found if each["type"] != "missing"]
        return []

    def takes(self, row: Mapping[str, Any]) -> bool:
        """True when these are arguments of the program."""
        try:
            self.arguments(to_json(dict(row)))
        except Exception:  # types of the program check themselves, and may raise anything
            return False
        return True

    def fields(self, prediction: Any) -> dict[str, Any]:
        """A program's result as the answer's fields: those of the output where it is known, else all."""
        values = self.given.select(answer_fields(prediction))
        if self.output is None:
            return values
        names = [field.alias or name for name, field in self.output.model_fields.items()]
        return {name: values[name] for name in names if name in values}


def _with_whole_numbers(body: bytes, error: ValidationError) -> bytes | None:
    """The body with 3 instead of 3.0, which is an integer in JSON Schema and not to pydantic; None where that is not
    all that is wrong."""
    if error.error_count() > MOST_FIELDS:
        return None
    content = from_json(body)
    for each in error.errors(include_url=False, include_context=False):
        value, place = each["input"], content
        if each["type"] != "int_type" or not isinstance(value, float) or not value.is_integer():
            return None
        try:
            for part in each["loc"][:-1]:
                place = place[part]
            place[each["loc"][-1]] = int(value)
        except (KeyError, IndexError, TypeError):  # in a union a place is named by its types as well
            return None
    return to_json(content)


def derive(program: Any, settings: SchemaSettings) -> Schema:
    """The schema of a loaded program. Raises SchemaError for a given one that is not of this program."""
    given = GivenSchema(settings)
    schema = _of_signature(program, given) or _of_annotations(program, given) or _free_form(given)
    if schema.input.model_config.get("extra") == "forbid":
        given.check_fields(_names(schema.input), _names(schema.output) if schema.output else None)
    return schema


def _names(side: type[BaseModel]) -> set[str]:
    return {field.alias or name for name, field in side.model_fields.items()}


def _json_schema(model: type[BaseModel] | None) -> dict[str, Any] | None:
    """JSON Schema of a side; None where it is not known or has types that JSON Schema has no words for."""
    try:
        return model.model_json_schema() if model else None
    except PydanticInvalidForJsonSchema:
        return None


def _signature(program: Any) -> Any:
    """What a program takes and returns by its signature; None where code of its own takes something else."""
    function, parameters = called(program)
    named = [each for each in parameters if each.kind is not each.VAR_KEYWORD]
    if named and not function.__module__.startswith("dspy."):
        return None
    if isinstance(program, dspy.ChainOfThought):
        return program.predict.signature
    signature = getattr(program, "signature", None)
    return signature if isinstance(signature, type) and issubclass(signature, dspy.Signature) else None


def _of_signature(program: Any, given: GivenSchema) -> Schema | None:
    signature = _signature(program)
    if signature is None:
        return None
    sides = ("Input", signature.input_fields), ("Output", signature.output_fields)
    taken, returned = (_model(name, _described(fields), "forbid") for name, fields in sides)
    return Schema("signature", taken, returned, (), given)


def _free_form(given: GivenSchema) -> Schema:
    return Schema("free-form", _model("Input", {}, "allow"), None, (), given)


def _described(fields: Mapping[str, FieldInfo]) -> dict[str, tuple[Any, FieldInfo]]:
    found = {}
    for name, info in fields.items():
        description = (info.json_schema_extra or {}).get("desc")  # type: ignore[union-attr]
        words = None if description == f"${{{name}}}" else description
        found[name] = (
            info.annotation,
            FieldInfo.merge_field_infos(info, json_schema_extra=None, description=words),
        )
    return found


def _model(
    name: str, fields: Mapping[str, tuple[Any, FieldInfo]], extra: Literal["forbid", "allow"]
) -> type[BaseModel]:
    """A model whose fields have any names at all: `copy`, `model_config` and `_q` are names of the program's, and mean
    something else to pydantic, so inside they are numbers."""
    definitions: dict[str, Any] = {}
    for number, (field, (kind, info)) in enumerate(fields.items()):
        names = dict.fromkeys(("alias", "validation_alias", "serialization_alias"), field)
        title = info.title or field.replace("_", " ").strip().title()
        definitions[f"field_{number}"] = (kind, FieldInfo.merge_field_infos(info, **names, title=title))
    config = ConfigDict(extra=extra, arbitrary_types_allowed=True, protected_namespaces=())
    return create_model(name, __config__=config, **definitions)


def _of_annotations(program: Any, given: GivenSchema) -> Schema | None:
    function, parameters = called(program)
    if function is None:
        return None
    named = [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    more = any(each.kind is each.VAR_KEYWORD for each in parameters)
    if not named and more:
        return None
    fields, underivable = {}, []
    for parameter in named:
        kind = _annotated(function, parameter)
        if kind is None:
            underivable.append(parameter.name)
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (Any if kind is None else kind, Field(default))
    taken = _model("Input", fields, "allow" if more else "forbid")
    unknown = tuple(name for name in underivable if name not in given.names())
    return Schema("annotations", taken, None, unknown, given)


def _annotated(function: Any, parameter: inspect.Parameter) -> Any:
    """The type of a parameter; None where its annotation cannot be evaluated here, Any where there is none.

    An annotation may be text (`from __future__ import annotations`), of names that a pickled class has left behind.
    """
    if parameter.annotation is parameter.empty:
        return Any
    known = {**vars(typing), **getattr(inspect.unwrap(function), "__globals__", {})}
    told = SimpleNamespace(__annotations__={"type": parameter.annotation})
    try:
        return get_type_hints(told, known, include_extras=True)["type"]
    except Exception:  # annotations are the program's own code: whatever they raise, they tell nothing
        return None
