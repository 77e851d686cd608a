"""How a policy becomes steps when a release starts: one file a strategy."""

from __future__ import annotations

from collections.abc import Sequence

from dspy_contract.routes import Users
from dspy_operator.api.rollout import Strategy, StrategyType
from dspy_operator.domain.steps import Step
from dspy_operator.domain.strategies import ab_test, blue_green, canary


def steps_of(strategy: Strategy, candidates: int = 1) -> tuple[Step, ...]:
    """The steps of a release of so many candidates under a strategy."""
    match strategy.type:
        case StrategyType.CANARY:
            return canary.steps_of(strategy.canary)
        case StrategyType.BLUE_GREEN:
            return blue_green.steps_of(strategy.blue_green)
        case StrategyType.AB_TEST:
            return ab_test.steps_of(strategy.ab_test, candidates)


def users_of(strategy: Strategy, uid: str, release: int, candidates: Sequence[str]) -> Users | None:
    """How users are drawn in a release of the program; None where requests are."""
    if strategy.type is not StrategyType.AB_TEST:
        return None
    return ab_test.users_of(strategy.ab_test, uid, release, candidates)
