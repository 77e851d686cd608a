"""Conditions as the Kubernetes API conventions want them: a reason for programs, a message for people, and a
transition time that moves only when the status flips."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dspy_operator.api.times import timestamp


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition. `status` is "True", "False" or "Unknown"."""

    type: str
    status: str
    reason: str
    message: str = ""


def true(type_: str, reason: str, message: str = "") -> Condition:
    """A condition that holds."""
    return Condition(type_, "True", reason, message)


def false(type_: str, reason: str, message: str = "") -> Condition:
    """A condition that does not hold."""
    return Condition(type_, "False", reason, message)


def merged(
    before: Iterable[Mapping[str, Any]], conditions: Iterable[Condition], generation: int, now: float
) -> list[dict[str, Any]]:
    """The conditions as the API's list, keeping the transition time of those whose status did not flip."""
    known = {condition["type"]: condition for condition in before}
    return [_merged(known.get(condition.type), condition, generation, now) for condition in conditions]


def _merged(before: Mapping[str, Any] | None, condition: Condition, generation: int, now: float) -> dict[str, Any]:
    flipped = before is None or before["status"] != condition.status
    return {
        "type": condition.type,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message,
        "observedGeneration": generation,
        "lastTransitionTime": timestamp(now) if flipped or before is None else before["lastTransitionTime"],
    }
