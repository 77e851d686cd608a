"""smokeTest: requests to the candidate's preview whose answers must be what they should be."""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec

from dspy_operator.api import rollout
from dspy_operator.api.rollout import SmokeRequest
from dspy_operator.domain.steps.progress import Progress


@dataclass(frozen=True, slots=True)
class SmokeTest:
    """`max_failures` of the requests may fail; one that has no answer after `timeout_seconds` has failed.

    The requests are kept as one text: an API server drops what is null within a status.
    """

    requests_json: str
    max_failures: int
    timeout_seconds: int

    @classmethod
    def of(cls, test: rollout.SmokeTest) -> SmokeTest:
        """The step of a policy's test."""
        return cls(msgspec.json.encode(test.requests).decode(), test.max_failures, test.timeout_seconds)

    @property
    def requests(self) -> tuple[SmokeRequest, ...]:
        """The requests, in their order."""
        return msgspec.json.decode(self.requests_json, type=tuple[SmokeRequest, ...])

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
