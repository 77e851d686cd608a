"""setWeight: gives the candidate a share of the traffic; done when every gateway obeys it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dspy_operator.domain.steps.progress import Progress


@dataclass(frozen=True, slots=True)
class SetWeight:
    """`weight_bp` is in basis points."""

    weight_bp: int

    def desired_weight_bp(self, current_bp: int) -> int:
        """The candidate's weight during and after this step."""
        return self.weight_bp

    def is_done(self, progress: Progress) -> bool:
        """True when the gateways obey the weight."""
        return progress.weight_bp == self.weight_bp and progress.routes_acked

    def describe(self, progress: Progress) -> str:
        """What the step does now, in one sentence."""
        setting = f"Setting the weight to {self.weight_bp / 100:g}%"
        return f"{setting}: {progress.refusal}" if progress.refusal else setting

    def may_end_in_seconds(self, progress: Progress) -> float:
        """Never by time: a confirmation wakes the release."""
        return math.inf

    def waits_for_others(self, progress: Progress) -> bool:
        """True: a gateway that never confirms holds it for ever."""
        return True
