"""Canary: the policy's own steps, in their order."""

from __future__ import annotations

import math

from dspy_contract.routes import TOTAL_WEIGHT
from dspy_operator.api import rollout
from dspy_operator.domain.steps import Mirror, PauseApproval, PauseRequests, PauseSeconds, SetWeight, Step, Watch


def steps_of(canary: rollout.Canary) -> tuple[Step, ...]:
    """The steps of a release under this policy."""
    return tuple(_step(step) for step in canary.steps)


def _step(step: rollout.Step) -> Step:
    if step.set_weight is not None:
        return SetWeight(basis_points(step.set_weight))
    if step.mirror is not None:
        mirror = step.mirror
        return Mirror(basis_points(mirror.percent), mirror.seconds or 0, mirror.requests or 0)
    if step.watch is not None:
        return Watch(step.watch.seconds, basis_points(step.watch.holdback_percent))
    if step.pause is not None and step.pause.approval:
        return PauseApproval()
    if step.pause is not None and step.pause.requests is not None:
        return PauseRequests(step.pause.requests)
    return PauseSeconds(step.pause.seconds or 0 if step.pause else 0)


def basis_points(percent: float) -> int:
    """Percent of the traffic as basis points."""
    return min(math.floor(percent * TOTAL_WEIGHT / 100 + 0.5), TOTAL_WEIGHT)
