"""Blue-green: the candidate at full size is tried without traffic, then it has nearly all in one change, and there is
a while to go back."""

from __future__ import annotations

from dspy_operator.api import rollout
from dspy_operator.domain.steps import PauseApproval, SmokeTest, Step, Watch
from dspy_operator.domain.strategies.canary import basis_points


def steps_of(blue_green: rollout.BlueGreen) -> tuple[Step, ...]:
    """The steps of a release under this policy."""
    approval = (PauseApproval(),) if blue_green.approval is rollout.Approval.REQUIRED else ()
    smoke = blue_green.smoke_test
    tested = (SmokeTest.of(smoke),) if smoke else ()
    return (*tested, *approval, Watch(blue_green.warm_seconds, basis_points(blue_green.holdback_percent)))
