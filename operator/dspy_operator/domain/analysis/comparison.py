"""How a comparison of users stands: which share met a bad answer of one stream, and can the two be told apart?"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dspy_operator.api.rollout import Analysis
from dspy_operator.domain.analysis.evidence import Evidence
from dspy_operator.domain.analysis.interval import Interval, difference
from dspy_operator.domain.analysis.judge import user_draws
from dspy_operator.domain.analysis.streams import BUILT_IN, Stream, streams_of
from dspy_operator.domain.analysis.verdict import Side


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

    @property
    def result(self) -> Result:
        """Which side is better, as far as it is known."""
        if self.interval.high < 0:
            return Result.WIN
        return Result.LOSS if self.interval.low > 0 else Result.UNDECIDED

    @property
    def users(self) -> int:
        """Of both sides."""
        return self.stable.requests + self.candidate.requests

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
    draws = user_draws(evidence, _stream(analysis, stream), compared=True)
    stable = Side(sum(each.stable_requests for each in draws), sum(each.stable_bad for each in draws))
    candidate = Side(sum(each.candidate_requests for each in draws), sum(each.candidate_bad for each in draws))
    return Compared(stable, candidate, difference(tuple(draws), alpha), alpha)


def _stream(analysis: Analysis, name: str) -> Stream:
    """One that is switched off is compared as it is by default."""
    return next(each for each in (*streams_of(analysis.streams), *BUILT_IN) if each.name == name)
