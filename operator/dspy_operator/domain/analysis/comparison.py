"""How a comparison of users stands: by the share that met a bad answer of one stream, or by the mean of what their
answers measured. Can the two sides be told apart?"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum

from dspy_contract.routes import SCORE
from dspy_operator.api.rollout import Analysis
from dspy_operator.domain.analysis.evidence import Evidence
from dspy_operator.domain.analysis.interval import Interval, difference
from dspy_operator.domain.analysis.judge import user_draws
from dspy_operator.domain.analysis.means import LEAST_USERS, Mean, difference_of_means, in_words, is_measure, means_of
from dspy_operator.domain.analysis.streams import stream_named
from dspy_operator.domain.analysis.verdict import Side, sides_of


class Result(StrEnum):
    """Win: the candidate is better; Tie: the comparison's end came first."""

    WIN = "Win"
    LOSS = "Loss"
    TIE = "Tie"
    UNDECIDED = "Undecided"


@dataclass(frozen=True, slots=True)
class Compared(ABC):
    """The candidate's number less stable's, and what that says at `alpha`."""

    interval: Interval
    alpha: float
    grown: int
    """Users who have been there for long enough, be they enough or not."""
    stable: Side | Mean
    candidate: Side | Mean

    @property
    def more_is_better(self) -> bool:
        """Whether a greater number is the better one."""
        return False

    @property
    def result(self) -> Result:
        """Which side is better, as far as it is known."""
        if self.interval.low > 0:
            return Result.WIN if self.more_is_better else Result.LOSS
        if self.interval.high < 0:
            return Result.LOSS if self.more_is_better else Result.WIN
        return Result.UNDECIDED

    @property
    def gain(self) -> float:
        """By how much the candidate was seen to be better."""
        return self.interval.seen if self.more_is_better else -self.interval.seen

    @property
    @abstractmethod
    def message(self) -> str:
        """Both sides and the interval; empty while there is nothing to compare."""

    @abstractmethod
    def number(self, value: float) -> str:
        """A difference as people read it, without its unit."""

    @property
    def confidence(self) -> str:
        """In percent."""
        return f"{100 * (1 - self.alpha):.4g}%"


@dataclass(frozen=True, slots=True)
class ComparedShares(Compared):
    """Users who met a bad answer, of all of a side, in percentage points."""

    stable: Side
    candidate: Side

    @property
    def message(self) -> str:
        """Both sides and the interval."""
        if not self.stable.requests and not self.candidate.requests:
            return ""
        low, seen, high = map(self.number, (self.interval.low, self.interval.seen, self.interval.high))
        return (
            f"{self.candidate.bad} of {self.candidate.requests} users of the candidate against {self.stable.bad} of "
            f"{self.stable.requests} of stable, {seen} points ({self.confidence} interval {low} to {high})"
        )

    def number(self, value: float) -> str:
        """In percentage points."""
        return f"{100 * value:+.2f}"


@dataclass(frozen=True, slots=True)
class ComparedMeans(Compared):
    """Users by the mean of what their answers measured, in the unit of the measure."""

    stable: Mean
    candidate: Mean
    measure: str

    @property
    def more_is_better(self) -> bool:
        """Of scores; tokens and cost are spent."""
        return self.measure == SCORE

    @property
    def message(self) -> str:
        """Both sides and the interval."""
        if not self.stable.users or not self.candidate.users:
            return ""
        told = (
            f"{in_words(self.measure, self.candidate.mean)} an answer to {self.candidate.users} users of the candidate "
            f"against {in_words(self.measure, self.stable.mean)} to {self.stable.users} of stable"
        )
        if math.isinf(self.interval.low):
            return f"{told}; the interval begins with {LEAST_USERS} users on each side"
        low, seen, high = map(self.number, (self.interval.low, self.interval.seen, self.interval.high))
        return f"{told}, {seen} ({self.confidence} interval {low} to {high})"

    def number(self, value: float) -> str:
        """In the measure's unit."""
        return f"{value:+.3g}"


def compare(evidence: Evidence, analysis: Analysis, stream: str, alpha: float) -> Compared:
    """How the users stand who have been there for long enough."""
    grown = evidence.users.grown
    if is_measure(stream):
        users = evidence.users.valued
        return ComparedMeans(difference_of_means(users, alpha), alpha, grown, *means_of(users), stream)
    draws = user_draws(evidence, stream_named(analysis.streams, stream), compared=True)
    return ComparedShares(difference(tuple(draws), alpha), alpha, grown, *sides_of(draws))
