"""What is judged: the kinds of bad answers, each with its share of the one alpha that a release has. Pure data.

A built-in stream is one row; a policy switches, re-weights or limits it, and adds its own by the flags of answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from dspy_contract.outcomes import FALLBACK_FLAG, NANO_USD, Outcome
from dspy_contract.routes import COST, TOKENS
from dspy_contract.state import EDGES_SECONDS, Counts
from dspy_operator.api import rollout
from dspy_operator.api.reasons import Reason
from dspy_operator.domain.analysis.means import in_words


@dataclass(frozen=True, slots=True)
class Stream:
    """Bad answers of one kind, by outcomes or by a flag; its share of alpha, and its tolerance (fractions).

    `reason` is what a rollback by this stream is called, `verb` what a candidate then does more often. `limit` is its
    ceiling (a fraction). What is `dry_run` is shown, and decides nothing.
    """

    name: str
    share: float
    tolerance: float
    reason: str
    verb: str
    outcomes: frozenset[str] = frozenset()
    flag: str = ""
    spends: bool = False
    """Whether it is no kind of bad answers, but what answers take or cost on average."""
    limit: float | None = None
    dry_run: bool = False

    def bad(self, counts: Counts) -> int:
        """Bad answers of this kind; never more than started. Of the slow ones, see SLOW."""
        if self.spends:
            return 0
        bad = counts.flags.get(self.flag, 0) if self.flag else counts.ended_as(self.outcomes)
        return min(bad, counts.started)

    def spent(self, counts: Counts) -> tuple[int, int]:
        """How many answers tell what they took, and their sum: in tokens, or in billionths of a US dollar."""
        return (counts.priced, counts.cost) if self.name == COST else (counts.started, counts.tokens)

    def spent_in_words(self, counts: Counts) -> str:
        """What an answer took or cost on average."""
        told, total = self.spent(counts)
        return in_words(self.name, total / max(told, 1) / (NANO_USD if self.name == COST else 1))


FAILED = Stream(
    name="failed",
    share=0.5,
    tolerance=0.001,
    reason=Reason.FAILS_MORE_OFTEN,
    verb="fails",
    outcomes=frozenset({Outcome.PROGRAM_ERROR, Outcome.UPSTREAM_ERROR, Outcome.TIMEOUT}),
)
REFUSED = Stream(
    name="refused",
    share=0.1,
    tolerance=0.001,
    reason=Reason.REFUSES_MORE_REQUESTS,
    verb="refuses its clients' requests",
    outcomes=frozenset({Outcome.CLIENT_ERROR}),
)
LEFT = Stream(
    name="left",
    share=0.15,
    tolerance=0.005,
    reason=Reason.CLIENTS_LEAVE,
    verb="loses its clients before the answer",
    outcomes=frozenset({Outcome.CANCELLED}),
)
SLOW = Stream(name="slow", share=0.2, tolerance=0.0, reason=Reason.SLOWER, verb="is slow")
"""Bad is what becomes older than a bound that stable's quantiles set."""

BUILT_IN = (FAILED, REFUSED, LEFT, SLOW)
SPENDS = Stream(TOKENS, share=0.05, tolerance=0.1, reason=Reason.SPENDS_MORE, verb="spends more tokens", spends=True)
COSTS = Stream(COST, share=0.05, tolerance=0.1, reason=Reason.COSTS_MORE, verb="costs more", spends=True)
SPENDING = (SPENDS, COSTS)
"""Judged where a policy names them: a new version may well be allowed to cost more."""

OWN_SHARE, OWN_TOLERANCE = 0.05, 0.001
"""Of all streams that users define, unless they say otherwise; without any it is a reserve that bets on nothing."""

SLOW_MARGIN = 0.05
"""How many more slow answers, as a fraction, still count as no worse: of the middle pair of edges."""

SLOW_QUANTILES = (0.5, 0.8, 0.95, 0.99, 0.995)
"""Stable's quantiles at which an edge of the grid is taken as the bound of a slow answer."""

MIDDLE_PAIR = 2
WARM_PAIRS = 3
"""The lower pairs do not count tables of a candidate that has just grown: a cold pod is slow for reasons that pass."""

BOUNDS_ANSWERS = 200
"""Answers of stable from which its quantiles are taken."""


@lru_cache(maxsize=1024)
def streams_of(given: tuple[rollout.Stream, ...]) -> tuple[Stream, ...]:
    """The streams of a policy: the built-in ones as it changes them, then its own. Shares sum to 1 at most."""
    changes = {each.name: each for each in given if not each.flag and not each.prometheus}
    own = [each for each in given if each.flag]
    asked = [stream for stream in SPENDING if stream.name in changes]
    streams = [_changed(stream, changes.get(stream.name)) for stream in (*BUILT_IN, *asked)]
    judged = sum(not each.dry_run for each in own)
    streams += [_changed(_own(each, max(judged, 1)), each) for each in own]
    kept = [stream for stream in streams if stream is not None]
    total = sum(stream.share for stream in kept if not stream.dry_run)
    return tuple(replace(stream, share=stream.share / max(total, 1.0)) for stream in kept)


def with_fallbacks(given: tuple[rollout.Stream, ...]) -> tuple[rollout.Stream, ...]:
    """A policy's streams, and how often something stood in for a program's models: two revisions that answer with
    different models are not compared unseen, whichever of them has such a thing."""
    if any(FALLBACK_FLAG in (each.flag, each.name) for each in given):
        return given
    return (*given, rollout.Stream(FALLBACK_FLAG, flag=FALLBACK_FLAG, dry_run=True))


def stream_named(given: tuple[rollout.Stream, ...], name: str) -> Stream:
    """A stream of a policy by its name, be it judged or not."""
    own = next((each for each in given if each.name == name and each.flag), None)
    return _own(own, 1) if own else next(each for each in (*BUILT_IN, *SPENDING) if each.name == name)


def failed_of(given: tuple[rollout.Stream, ...]) -> Stream | None:
    """The stream of failures as a policy has it; None where it decides nothing."""
    return next((each for each in streams_of(given) if each.name == FAILED.name and not each.dry_run), None)


def spending_of(given: tuple[rollout.Stream, ...]) -> tuple[Stream, ...]:
    """The streams of a policy by what answers take or cost."""
    return tuple(stream for stream in streams_of(given) if stream.spends)


def slow_bounds(stable: Counts) -> tuple[int, ...]:
    """The edges beyond which an answer of stable is slow, by its quantiles; empty while too few answers are known."""
    if stable.answered < BOUNDS_ANSWERS:
        return ()
    return tuple(_edge(stable.older, stable.started, 1 - quantile) for quantile in SLOW_QUANTILES)


def _own(given: rollout.Stream, number: int) -> Stream:
    verb = f"is flagged {given.flag}"
    return Stream(given.name, OWN_SHARE / number, OWN_TOLERANCE, Reason.FLAGGED_MORE_OFTEN, verb, flag=given.flag)


def _changed(stream: Stream, given: rollout.Stream | None) -> Stream | None:
    if given is None:
        return stream
    if not given.enabled:
        return None
    return replace(
        stream,
        share=stream.share if given.share_percent is None else given.share_percent / 100,
        tolerance=stream.tolerance if given.tolerance_percent is None else given.tolerance_percent / 100,
        limit=None if given.max_percent is None else given.max_percent / 100,
        dry_run=given.dry_run,
    )


def _edge(older: Mapping[int, int], started: int, share: float) -> int:
    """The first edge that at most this share became as old as; the candidate's bound is the next one."""
    last = len(EDGES_SECONDS) - 2
    return next((edge for edge in range(last) if older.get(edge, 0) <= share * started), last)
