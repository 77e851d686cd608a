"""The steps of a release: one tagged item each, one file each.

A step says what it asks of the candidate's weight (or of the share that is copied), when it is done, and how it is
described. It knows nothing of ledgers or snapshots: what it may look at is a `Progress`.
"""

from __future__ import annotations

from dspy_operator.api.convert import register_union
from dspy_operator.domain.steps.compare import Compare
from dspy_operator.domain.steps.mirror import Mirror
from dspy_operator.domain.steps.pause import PauseApproval, PauseRequests, PauseSeconds
from dspy_operator.domain.steps.progress import Progress
from dspy_operator.domain.steps.set_weight import SetWeight
from dspy_operator.domain.steps.smoke_test import SmokeTest
from dspy_operator.domain.steps.watch import Watch

Step = SetWeight | Mirror | PauseSeconds | PauseRequests | PauseApproval | SmokeTest | Compare | Watch
register_union(Step)

__all__ = [
    "Compare",
    "Mirror",
    "PauseApproval",
    "PauseRequests",
    "PauseSeconds",
    "Progress",
    "SetWeight",
    "SmokeTest",
    "Step",
    "Watch",
]
