"""compare: waits until the users of both sides can be told apart by one stream, or for as long as was said."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dspy_operator.api import rollout
from dspy_operator.domain.steps.progress import Progress

LOOK_SECONDS = 1.0
LONGEST_EXPOSURE_SECONDS, EXPOSURE_SHARE = 3_600.0, 0.1


@dataclass(frozen=True, slots=True)
class Compare:
    """The share of users with a bad answer of `stream`, at `alpha`; ends after so many users who can be compared, after
    so many requests to the candidate, or in time. `on_*`: what becomes of the candidate."""

    stream: str
    alpha: float
    max_seconds: int
    users: int | None = None
    requests: int | None = None
    on_win: rollout.OnCompared = rollout.OnCompared.PROMOTE
    on_loss: rollout.OnCompared = rollout.OnCompared.ROLLBACK
    on_tie: rollout.OnCompared = rollout.OnCompared.HOLD

    @property
    def exposure_seconds(self) -> float:
        """How long a user is there before it counts: a tenth of the longest time, at most an hour. So the two sides
        are of equal age, and nobody is chosen by what it met."""
        return min(LONGEST_EXPOSURE_SECONDS, EXPOSURE_SHARE * self.max_seconds)

    def desired_weight_bp(self, current_bp: int) -> int:
        """The share is fixed."""
        return current_bp

    def is_done(self, progress: Progress) -> bool:
        """True when it has been concluded and the candidate is to go on."""
        return progress.concluded == rollout.OnCompared.PROMOTE

    def is_over(self, progress: Progress, users: int) -> bool:
        """True when it ends undecided. `users` are those that can be compared."""
        return (
            progress.elapsed_seconds >= self.max_seconds
            or (self.users is not None and users >= self.users)
            or (self.requests is not None and progress.candidate_requests >= self.requests)
        )

    def describe(self, progress: Progress) -> str:
        """How it stands, in one sentence."""
        return f"Comparing {self.stream} by users: {progress.comparison}"

    def may_end_in_seconds(self, progress: Progress) -> float:
        """Soon: counts arrive all the time. What has ended waits for a person."""
        return math.inf if progress.concluded else LOOK_SECONDS

    def waits_for_others(self, progress: Progress) -> bool:
        """False: it has an end of its own."""
        return False
