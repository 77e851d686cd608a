"""What the evidence says of a candidate, with the stream that decided and words for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from dspy_operator.domain.analysis.draws import Draws


class Verdict(StrEnum):
    """Worse takes the candidate's traffic away, NoWorse lets it be promoted, Undecided waits."""

    WORSE = "Worse"
    NO_WORSE = "NoWorse"
    UNDECIDED = "Undecided"


@dataclass(frozen=True, slots=True)
class Side:
    """Requests, or users, of one revision, and those among them that went bad in the way of one stream."""

    requests: int
    bad: int


def sides_of(draws: Sequence[Draws]) -> tuple[Side, Side]:
    """Stable's and the candidate's of several draws together."""
    return (
        Side(sum(each.stable_requests for each in draws), sum(each.stable_bad for each in draws)),
        Side(sum(each.candidate_requests for each in draws), sum(each.candidate_bad for each in draws)),
    )


@dataclass(frozen=True, slots=True)
class StreamJudged:
    """What one stream says; `log_e` (natural) is its evidence that the candidate is worse."""

    verdict: Verdict
    log_e: float
    stable: Side
    candidate: Side
    stable_users: Side = Side(0, 0)
    candidate_users: Side = Side(0, 0)
    """The same of users, where they are drawn."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict. `stream` is what decided it; `log_e` (natural) is the evidence that the candidate is worse."""

    verdict: Verdict
    reason: str
    stream: str
    message: str
    log_e: float = 0.0
