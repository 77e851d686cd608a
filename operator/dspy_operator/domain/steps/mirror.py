"""mirror: copies a share of stable's requests to the candidate for a while; what it answers goes to nobody."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dspy_operator.domain.steps.pause import REQUESTS_SECONDS
from dspy_operator.domain.steps.progress import Progress


@dataclass(frozen=True, slots=True)
class Mirror:
    """`percent_bp` of the requests, in basis points, for so many seconds and so many copies: whatever takes longer."""

    percent_bp: int
    seconds: int = 0
    requests: int = 0

    def desired_weight_bp(self, current_bp: int) -> int:
        """The share that is copied."""
        return self.percent_bp

    def is_done(self, progress: Progress) -> bool:
        """True when the gateways have obeyed, the time is over, and that many copies have been sent."""
        enough = progress.elapsed_seconds >= self.seconds and progress.candidate_requests >= self.requests
        return progress.routes_acked and enough

    def describe(self, progress: Progress) -> str:
        """What the step waits for, in one sentence."""
        copying = f"Copying {self.percent_bp / 100:g}% of the requests to the candidate"
        if progress.refusal:
            return f"{copying}: {progress.refusal}"
        wanted = f" of {self.requests}" if self.requests else ""
        lasting = f" for {self.seconds} s" if self.seconds else ""
        return f"{copying}{lasting}: {progress.candidate_requests}{wanted} copies so far, no client gets its answers"

    def may_end_in_seconds(self, progress: Progress) -> float:
        """When time alone ends it, or soon: counts arrive all the time."""
        left = self.seconds - progress.elapsed_seconds
        return left if left > 0 else REQUESTS_SECONDS if self.requests else math.inf

    def waits_for_others(self, progress: Progress) -> bool:
        """True once only requests are missing: without traffic it waits for ever."""
        return self.requests > 0 and progress.elapsed_seconds >= self.seconds
