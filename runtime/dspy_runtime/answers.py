"""What a program returned, as JSON: the one serialiser of answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from typing import Any

import dspy
import numpy as np
from pydantic import BaseModel
from pydantic_core import to_json

from dspy_contract.outcomes import FALLBACK_FLAG, FLAG

FLAGS_FIELD, SCORE_FIELD = "dspy_flags", "dspy_score"
"""Fields of a prediction that say something of the answer, and are no part of it."""

MOST_OWN_FLAGS = 4
"""That a program may give one answer."""

_FLAG = re.compile(FLAG)


def answer_fields(result: Any) -> dict[str, Any]:
    """A program's result as fields; what has none is the field `output`."""
    if isinstance(result, dspy.Prediction | dspy.Example):
        return dict(result.items())
    if isinstance(result, BaseModel):
        return {name: getattr(result, name) for name in type(result).model_fields}
    return dict(result) if isinstance(result, Mapping) else {"output": result}


def flags_of(result: Any) -> tuple[str, ...]:
    """What a program says of its answer besides the answer: the names in its field FLAGS_FIELD. Raises ValueError for
    what is no flag, and for too many."""
    given = _said(result, FLAGS_FIELD)
    flags = sorted({given} if isinstance(given, str) else set(given or ()))
    if FALLBACK_FLAG in flags:
        raise ValueError(f"{FLAGS_FIELD} takes no {FALLBACK_FLAG}: that is the runtime's own")
    if len(flags) > MOST_OWN_FLAGS or not all(isinstance(flag, str) and _FLAG.fullmatch(flag) for flag in flags):
        raise ValueError(
            f"{FLAGS_FIELD} takes at most {MOST_OWN_FLAGS} names of a-z, 0-9 and '-', of at most 30 characters"
        )
    return tuple(flags)


def score_of(result: Any) -> float | None:
    """How good a program thinks its answer is, by its field SCORE_FIELD; None where it says nothing. Raises ValueError
    for what is no number from 0 to 1."""
    given = _said(result, SCORE_FIELD)
    if given is None:
        return None
    if not isinstance(given, int | float | np.number) or not 0 <= given <= 1:
        raise ValueError(f"{SCORE_FIELD} takes a number from 0 to 1")
    return float(given)


def _said(result: Any, field: str) -> Any:
    return result.get(field) if isinstance(result, Mapping | dspy.Prediction | dspy.Example) else None


def answer_json(fields: Mapping[str, Any]) -> bytes:
    """Fields as JSON, but for flags and score. What JSON has no number for is null. Raises for what cannot be written
    down."""
    answered = {name: each for name, each in fields.items() if name not in (FLAGS_FIELD, SCORE_FIELD)}
    return to_json(_plain(answered), inf_nan_mode="null", fallback=_numbers)


def _numbers(value: Any) -> Any:
    """Arrays and numbers of NumPy and its like."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is nothing that JSON has")


def _is_dspys(value: Any) -> bool:
    """True for a value that holds one of DSPy's own."""
    if isinstance(value, Mapping):
        return any(map(_is_dspys, value.values()))
    if isinstance(value, list | tuple | Set):
        return any(map(_is_dspys, value))
    if isinstance(value, BaseModel) and not isinstance(value, dspy.Type):
        return any(map(_is_dspys, vars(value).values()))
    return isinstance(value, dspy.Type | dspy.Prediction | dspy.Example)


def _plain(value: Any) -> Any:
    """A value without DSPy's own classes: they write themselves for prompts, not for clients."""
    if isinstance(value, str | int | float | None):
        return value
    if isinstance(value, dspy.Prediction | dspy.Example):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, dspy.Type) or (isinstance(value, BaseModel) and any(map(_is_dspys, vars(value).values()))):
        return {name: _plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple | Set):
        return [_plain(each) for each in value]
    return value
