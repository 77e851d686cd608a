"""pause: waits for seconds, for requests to the candidate, or for a person."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dspy_operator.domain.steps.progress import Progress

REQUESTS_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class PauseSeconds:
    """Waits for a time."""

    seconds: int

    def desired_weight_bp(self, current_bp: int) -> int:
        """A pause leaves the weight as it is."""
        return current_bp

    def is_done(self, progress: Progress) -> bool:
        """True when the time is over."""
        return progress.elapsed_seconds >= self.seconds

    def describe(self, progress: Progress) -> str:
        """What the step waits for, in one sentence."""
        return f"Waiting {self.seconds} s at {progress.weight_bp / 100:g}%"

    def may_end_in_seconds(self, progress: Progress) -> float:
        """When time alone ends it."""
        return max(self.seconds - progress.elapsed_seconds, 0.0)

    def waits_for_others(self, progress: Progress) -> bool:
        """False: time passes by itself."""
        return False


@dataclass(frozen=True, slots=True)
class PauseRequests:
    """Waits for a number of requests to the candidate."""

    requests: int

    def desired_weight_bp(self, current_bp: int) -> int:
        """A pause leaves the weight as it is."""
        return current_bp

    def is_done(self, progress: Progress) -> bool:
        """True when that many have started since the step began."""
        return progress.candidate_requests >= self.requests

    def describe(self, progress: Progress) -> str:
        """What the step waits for, in one sentence."""
        return f"Waiting for {self.requests} candidate requests, {progress.candidate_requests} so far"

    def may_end_in_seconds(self, progress: Progress) -> float:
        """Soon: counts arrive all the time."""
        return REQUESTS_SECONDS

    def waits_for_others(self, progress: Progress) -> bool:
        """True: without traffic it waits for ever."""
        return True


@dataclass(frozen=True, slots=True)
class PauseApproval:
    """Waits until a person approves it."""

    def desired_weight_bp(self, current_bp: int) -> int:
        """A pause leaves the weight as it is."""
        return current_bp

    def is_done(self, progress: Progress) -> bool:
        """True when a person has approved this very step."""
        return progress.approved

    def describe(self, progress: Progress) -> str:
        """What the step waits for, in one sentence."""
        where = f"; its preview: {progress.preview}" if progress.preview else ""
        return f"Waiting for approval at {progress.weight_bp / 100:g}%: the request is `{progress.approval}`{where}"

    def may_end_in_seconds(self, progress: Progress) -> float:
        """Never by time: a request wakes the release."""
        return math.inf

    def waits_for_others(self, progress: Progress) -> bool:
        """False: people take the time that they need, and it is no fault of the release."""
        return False
