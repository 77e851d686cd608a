"""What is judged: the kinds of bad answers, each with its share of the one alpha that a release has. Pure data.

A new stream is one row. Shares sum to 1 together with those of the streams that users define.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dspy_contract.outcomes import Outcome
from dspy_contract.state import EDGES_SECONDS, Counts
from dspy_operator.api.reasons import Reason


@dataclass(frozen=True, slots=True)
class Stream:
    """Bad answers of one kind, its share of alpha, and its tolerance (a fraction).

    `reason` is what a rollback by this stream is called, `phrase` what the candidate then does.
    """

    name: str
    share: float
    tolerance: float
    outcomes: frozenset[str]
    reason: str
    phrase: str

    def bad(self, counts: Counts) -> int:
        """Bad answers of this kind; never more than started."""
        return min(counts.ended_as(self.outcomes), counts.started)


FAILED = Stream(
    name="failed",
    share=0.5,
    tolerance=0.001,
    outcomes=frozenset({Outcome.PROGRAM_ERROR, Outcome.UPSTREAM_ERROR, Outcome.TIMEOUT}),
    reason=Reason.FAILS_MORE_OFTEN,
    phrase="fails more often",
)
REFUSED = Stream(
    name="refused",
    share=0.1,
    tolerance=0.001,
    outcomes=frozenset({Outcome.CLIENT_ERROR}),
    reason=Reason.REFUSES_MORE_REQUESTS,
    phrase="refuses more of its clients' requests",
)
LEFT = Stream(
    name="left",
    share=0.15,
    tolerance=0.005,
    outcomes=frozenset({Outcome.CANCELLED}),
    reason=Reason.CLIENTS_LEAVE,
    phrase="loses more of its clients before the answer",
)
STREAMS = (FAILED, REFUSED, LEFT)

SLOW_NAME, SLOW_SHARE, SLOW_REASON = "slow", 0.2, Reason.SLOWER
SLOW_MARGIN = 0.05
"""How many more slow answers, as a fraction, still count as no worse: of the middle pair of edges."""

SLOW_QUANTILES = (0.5, 0.8, 0.95, 0.99, 0.995)
"""Stable's quantiles at which an edge of the grid is taken as the bound of a slow answer."""

MIDDLE_PAIR = 2
WARM_PAIRS = 3
"""The lower pairs do not count tables of a candidate that has just grown: a cold pod is slow for reasons that pass."""

UNDEFINED_SHARE = 0.05
"""What is kept for streams that users define; it bets on nothing yet."""

BOUNDS_ANSWERS = 200
"""Answers of stable from which its quantiles are taken."""


def slow_bounds(stable: Counts) -> tuple[int, ...]:
    """The edges beyond which an answer of stable is slow, by its quantiles; empty while too few answers are known."""
    if stable.answered < BOUNDS_ANSWERS:
        return ()
    return tuple(_edge(stable.older, stable.started, 1 - quantile) for quantile in SLOW_QUANTILES)


def _edge(older: Mapping[int, int], started: int, share: float) -> int:
    """The first edge that at most this share became as old as; the candidate's bound is the next one."""
    last = len(EDGES_SECONDS) - 2
    return next((edge for edge in range(last) if older.get(edge, 0) <= share * started), last)
