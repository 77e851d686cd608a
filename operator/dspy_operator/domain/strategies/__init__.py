"""How a policy becomes steps when a release starts: one file a strategy."""

from __future__ import annotations

from dspy_operator.api.rollout import Strategy, StrategyType
from dspy_operator.domain.steps import Step
from dspy_operator.domain.strategies import blue_green, canary


def steps_of(strategy: Strategy) -> tuple[Step, ...]:
    """The steps of a release under a strategy."""
    match strategy.type:
        case StrategyType.CANARY:
            return canary.steps_of(strategy.canary)
        case StrategyType.BLUE_GREEN:
            return blue_green.steps_of(strategy.blue_green)
