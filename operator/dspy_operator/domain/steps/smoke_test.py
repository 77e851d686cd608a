"""smokeTest: requests to the candidate's preview whose answers must be what they should be."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dspy_operator.api.rollout import SmokeRequest
from dspy_operator.domain.steps.progress import Progress


@dataclass(frozen=True, slots=True)
class SmokeTest:
    """`max_failures` of the requests may fail; one that has no answer after `timeout_seconds` has failed."""

    requests: tuple[SmokeRequest, ...]
    max_failures: int
    timeout_seconds: int

    def desired_weight_bp(self, current_bp: int) -> int:
        """What is sent to the preview is no traffic."""
        return current_bp

    def is_done(self, progress: Progress) -> bool:
        """True when it has passed."""
        return progress.smoke_test_passed

    def describe(self, progress: Progress) -> str:
        """What the step waits for, in one sentence."""
        number = len(self.requests)
        return f"Smoke test of {number} request{'s' * (number != 1)}: {progress.smoke_test or 'sending'}"

    def may_end_in_seconds(self, progress: Progress) -> float:
        """Never by time: its result wakes the release."""
        return math.inf

    def waits_for_others(self, progress: Progress) -> bool:
        """True: a provider that is down holds it."""
        return True
