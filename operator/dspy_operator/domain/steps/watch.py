"""watch: the candidate carries all but what is held back, and roles stay for a while: going back is one change of
routes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dspy_contract.routes import TOTAL_WEIGHT
from dspy_operator.domain.steps.progress import Progress


@dataclass(frozen=True, slots=True)
class Watch:
    """`holdback_bp` is what stable keeps, in basis points: without it there is nothing to compare with."""

    seconds: int
    holdback_bp: int

    def desired_weight_bp(self, current_bp: int) -> int:
        """All but what is held back."""
        return TOTAL_WEIGHT - self.holdback_bp

    def is_done(self, progress: Progress) -> bool:
        """True when the gateways have obeyed, and the time is over."""
        return progress.routes_acked and progress.elapsed_seconds >= self.seconds

    def describe(self, progress: Progress) -> str:
        """What the step waits for, in one sentence."""
        if progress.refusal:
            return f"Switching to {self._weight:g}%: {progress.refusal}"
        watched = f"Watching {self.seconds} s at {self._weight:g}%"
        return f"{watched}: stable keeps {self.holdback_bp / 100:g}% and all of its pods, for the way back"

    def may_end_in_seconds(self, progress: Progress) -> float:
        """When time alone ends it; after that a confirmation wakes the release."""
        left = self.seconds - progress.elapsed_seconds
        return left if left > 0 else math.inf

    def waits_for_others(self, progress: Progress) -> bool:
        """False: time passes by itself."""
        return False

    @property
    def _weight(self) -> float:
        return self.desired_weight_bp(0) / 100
