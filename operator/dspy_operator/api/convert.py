"""One converter between frozen dataclasses in snake_case and the API's dicts in camelCase."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypeVar

import cattrs
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override
from cattrs.strategies import configure_tagged_union

from dspy_operator.api.times import LATEST, UnixSeconds, precise, seconds

T = TypeVar("T")


def camel(name: str) -> str:
    """snake_case to camelCase."""
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter()

    def renames(cls: type) -> dict[str, Any]:
        return {field.name: override(rename=camel(field.name)) for field in dataclasses.fields(cls)}

    converter.register_structure_hook_factory(
        dataclasses.is_dataclass, lambda cls: make_dict_structure_fn(cls, converter, **renames(cls))
    )
    converter.register_unstructure_hook_factory(
        dataclasses.is_dataclass,
        lambda cls: make_dict_unstructure_fn(cls, converter, _cattrs_omit_if_default=True, **renames(cls)),
    )
    # JSON has no infinity: an e-process that lost everything says null.
    converter.register_unstructure_hook(float, lambda value: value if math.isfinite(value) else None)
    converter.register_structure_hook(float, lambda value, _: -math.inf if value is None else float(value))
    converter.register_unstructure_hook_func(_is_time, precise)
    converter.register_structure_hook_func(_is_time, lambda value, _: _time(value))
    return converter


def _is_time(kind: Any) -> bool:
    return kind is UnixSeconds


def _time(value: Any) -> float:
    """A time as it is written, or Unix seconds, as ledgers before version 2 had them."""
    found = seconds(value) if isinstance(value, str) else float(value)
    if not 0 <= found < LATEST:
        raise ValueError(f"{value} is no time")
    return found


_CONVERTER = _converter()


def register_union(union: Any) -> None:
    """Makes a union of dataclasses a tagged one: `kind` names the class."""
    configure_tagged_union(union, _CONVERTER, tag_name="kind")


def to_dict(value: Any) -> dict[str, Any]:
    """A value as the API's dict; fields at their default are left out."""
    result: dict[str, Any] = _CONVERTER.unstructure(value)
    return result


def from_dict(content: Any, cls: type[T]) -> T:
    """The API's dict as a value; unknown fields are ignored. Raises cattrs' errors for wrong types."""
    return _CONVERTER.structure(content, cls)
