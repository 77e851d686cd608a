"""How a policy becomes steps when a release starts: one file a strategy."""

from __future__ import annotations

from dspy_contract.routes import Users
from dspy_operator.api.rollout import Strategy, StrategyType
from dspy_operator.domain.steps import Step
from dspy_operator.domain.strategies import ab_test, blue_green, canary


def steps_of(strategy: Strategy) -> tuple[Step, ...]:
    """The steps of a release under a strategy."""
    match strategy.type:
        case StrategyType.CANARY:
            return canary.steps_of(strategy.canary)
        case StrategyType.BLUE_GREEN:
            return blue_green.steps_of(strategy.blue_green)
        case StrategyType.AB_TEST:
            return ab_test.steps_of(strategy.ab_test)


def users_of(strategy: Strategy, uid: str, release: int) -> Users | None:
    """How users are drawn in a release of the program; None where requests are."""
    return ab_test.users_of(strategy.ab_test, uid, release) if strategy.type is StrategyType.AB_TEST else None
