"""What a program takes and returns, as pydantic models, and where that knowledge came from.

A signature (Predict, ReAct, ChainOfThought) tells both sides. Else the annotations of `aforward` or `forward` tell the
input. Else anything goes. Where types are known, a wrong request is refused before any call of the language model.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

import dspy
from pydantic import BaseModel, ConfigDict, create_model
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.fields import FieldInfo


@dataclass(frozen=True, slots=True)
class Schema:
    """The fields of a program. `source` is signature, annotations or free-form; free-form checks nothing but JSON."""

    source: str
    input: type[BaseModel]
    output: type[BaseModel] | None

    def document(self) -> dict[str, Any]:
        """The answer of `/schema`: JSON Schema of both sides, null where it is not known."""
        return {"source": self.source, "input": _json_schema(self.input), "output": _json_schema(self.output)}

    def arguments(self, body: bytes) -> dict[str, Any]:
        """A request's body as the program's arguments. Raises pydantic.ValidationError."""
        checked = self.input.model_validate_json(body)
        return {name: getattr(checked, name) for name in checked.model_fields_set | set(type(checked).model_fields)}

    def fields(self, prediction: Any) -> dict[str, Any]:
        """A program's result as the answer's fields: those of the output where it is known, else all."""
        values = _as_dict(prediction)
        return (
            values
            if self.output is None
            else {name: values[name] for name in self.output.model_fields if name in values}
        )


def derive(program: Any) -> Schema:
    """The schema of a loaded program."""
    signature = _signature(program)
    if signature is not None:
        return Schema("signature", _model("Input", signature.input_fields), _model("Output", signature.output_fields))
    return _from_annotations(program) or Schema(
        "free-form", create_model("Input", __config__=ConfigDict(extra="allow")), None
    )


def is_async(program: Any) -> bool:
    """True when the program can be awaited; DSPy calls `aforward` then."""
    return hasattr(program, "aforward")


def _json_schema(model: type[BaseModel] | None) -> dict[str, Any] | None:
    """JSON Schema of a side; None where it is not known or has types that JSON Schema has no words for."""
    try:
        return model.model_json_schema() if model else None
    except PydanticInvalidForJsonSchema:
        return None


def _signature(program: Any) -> Any:
    if isinstance(program, dspy.ChainOfThought):
        return program.predict.signature
    signature = getattr(program, "signature", None)
    return signature if isinstance(signature, type) and issubclass(signature, dspy.Signature) else None


def _model(name: str, fields: Mapping[str, FieldInfo]) -> type[BaseModel]:
    definitions: dict[str, Any] = {}
    for field, info in fields.items():
        description = (info.json_schema_extra or {}).get("desc")  # type: ignore[union-attr]
        words = None if description == f"${{{field}}}" else description
        definitions[field] = (
            info.annotation,
            FieldInfo.merge_field_infos(info, json_schema_extra=None, description=words),
        )
    return create_model(name, __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=True), **definitions)


def _from_annotations(program: Any) -> Schema | None:
    function = getattr(type(program), "aforward", None) or getattr(type(program), "forward", None)
    if function is None:
        return None
    try:
        hints = get_type_hints(function)
    except Exception:  # annotations are the program's own code: whatever they raise, they tell nothing
        return None
    parameters = list(inspect.signature(function).parameters.values())[1:]
    if any(parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL) for parameter in parameters):
        return None
    definitions: dict[str, Any] = {
        parameter.name: (
            hints.get(parameter.name, Any),
            ... if parameter.default is parameter.empty else parameter.default,
        )
        for parameter in parameters
    }
    model = create_model("Input", __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=True), **definitions)
    return Schema("annotations", model, None)


def _as_dict(prediction: Any) -> dict[str, Any]:
    if isinstance(prediction, dspy.Prediction):
        return dict(prediction.items())
    if isinstance(prediction, BaseModel):
        return prediction.model_dump()
    return dict(prediction) if isinstance(prediction, Mapping) else {"output": prediction}
