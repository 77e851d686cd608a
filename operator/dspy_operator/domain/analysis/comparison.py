"""How a comparison of users stands: which share met a bad answer of one stream, and can the two be told apart?"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dspy_operator.api.rollout import Analysis
from dspy_operator.domain.analysis.evidence import Evidence
from dspy_operator.domain.analysis.interval import Interval, difference
from dspy_operator.domain.analysis.judge import user_draws
from dspy_operator.domain.analysis.streams import stream_named
from dspy_operator.domain.analysis.verdict import Side, sides_of


class Result(StrEnum):
    """Win: fewer of the candidate's users met a bad answer than of stable's; Tie: its end came first."""

    WIN = "Win"
    LOSS = "Loss"
    TIE = "Tie"
    UNDECIDED = "Undecided"


@dataclass(frozen=True, slots=True)
class Compared:
    """Both sides' users, the difference of their shares, and what it says at `alpha`."""

    stable: Side
    candidate: Side
    interval: Interval
    alpha: float
    grown: int
    """Users who have been there for long enough, be they enough or not."""

    @property
    def result(self) -> Result:
        """Which side is better, as far as it is known."""
        if self.interval.high < 0:
            return Result.WIN
        return Result.LOSS if self.interval.low > 0 else Result.UNDECIDED

    @property
    def message(self) -> str:
        """Both sides and the interval, in percentage points."""
        low, seen, high = (f"{100 * each:+.2f}" for each in (self.interval.low, self.interval.seen, self.interval.high))
        return (
            f"{self.candidate.bad} of {self.candidate.requests} users of the candidate against {self.stable.bad} of "
            f"{self.stable.requests} of stable, {seen} points ({100 * (1 - self.alpha):g}% interval {low} to {high})"
        )


def compare(evidence: Evidence, analysis: Analysis, stream: str, alpha: float) -> Compared:
    """How the users stand who have been there for long enough."""
    draws = user_draws(evidence, stream_named(analysis.streams, stream), compared=True)
    grown = evidence.users.grown
    return Compared(*sides_of(draws), difference(tuple(draws), alpha), alpha, grown)
