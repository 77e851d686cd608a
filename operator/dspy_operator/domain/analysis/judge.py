"""The verdict on a candidate, from totals alone: the guard, a pass, another replica and a reader all get the same.

One label test a stream, averaged with fixed shares (valid under any dependence between streams): one alpha for the
release. Lowered at 1/alpha, refused when 1/20 still stands once every table that drew the candidate is settled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from dspy_contract.outcomes import Outcome
from dspy_contract.state import EDGES_SECONDS, Counts
from dspy_operator.api.rollout import Analysis
from dspy_operator.domain.analysis import ceiling, label_test, no_worse
from dspy_operator.domain.analysis.draws import Draws, log_sum, rejects
from dspy_operator.domain.analysis.evidence import Evidence, RequestCounts, Total, add_counts
from dspy_operator.domain.analysis.streams import (
    FAILED,
    MIDDLE_PAIR,
    SLOW_MARGIN,
    SLOW_NAME,
    SLOW_REASON,
    SLOW_SHARE,
    STREAMS,
    UNDEFINED_SHARE,
    WARM_PAIRS,
    Stream,
)
from dspy_operator.domain.analysis.verdict import Judged, Verdict

WATCHED_ALPHA = 0.01
"""Of the ceiling while a candidate is watched. A wrong doubt costs it some traffic, and no release."""

CONFIRMS = 0.05
"""A lowered candidate is refused when E is at least 1/0.05 once every answer is in."""

Bad = Callable[[Counts], int]


def judge(evidence: Evidence, analysis: Analysis) -> Judged:
    """The verdict now. Looking often is free: each test is valid at any look."""
    log_e, stream = _evidence_of_worse(evidence)
    if rejects(log_e, analysis.false_rollback_percent / 100):
        return _worse(evidence, stream, log_e)
    if is_no_worse(evidence, analysis):
        return Judged(Verdict.NO_WORSE, "", "", f"The candidate is no worse: {described(evidence)}", log_e)
    return Judged(Verdict.UNDECIDED, "", "", f"Not decided yet: {described(evidence)}", log_e)


def judge_worse(evidence: Evidence, analysis: Analysis) -> Judged | None:
    """The verdict if it is Worse: all that the guard asks, for less than the whole."""
    log_e, stream = _evidence_of_worse(evidence)
    return _worse(evidence, stream, log_e) if rejects(log_e, analysis.false_rollback_percent / 100) else None


def is_confirmed(judged: Judged) -> bool:
    """True when the evidence still stands once every answer is in."""
    return rejects(judged.log_e, CONFIRMS)


def is_no_worse(evidence: Evidence, analysis: Analysis) -> bool:
    """True when every stream is shown no worse by its margin, on settled tables in their order.

    What is slow is known from stable's first answers: before them nothing is shown.
    """
    if not evidence.bounds:
        return False
    totals = [total for total in evidence.totals if total.judged]
    margin = analysis.margin_percent / 100
    bets = [no_worse.log_e(_answered(totals, stream), margin) for stream in STREAMS]
    bounded = [total for total in totals if total.bounded]
    bets.append(no_worse.log_e(_slow_draws(evidence, bounded, MIDDLE_PAIR), SLOW_MARGIN))
    return all(rejects(bet, no_worse.ALPHA) for bet in bets)


def is_better(evidence: Evidence, alpha: float) -> bool:
    """True when stable is shown to be the worse one: the same test with the roles exchanged."""
    totals = [total for total in evidence.ordered if total.judged]
    return rejects(label_test.log_e([each.exchanged() for each in _draws(totals, FAILED.bad)]), alpha)


def ceiling_of(evidence: Evidence, analysis: Analysis, step: int, watched: bool) -> float | None:
    """How often, as a fraction, the candidate may fail before it is doubted: the policy's limit.

    With nearly all of the traffic the label test is slow, for a bad answer weighs 1 / weight: there a candidate that is
    `watched` has the ceiling that stable sets: the margin above its upper bound, in this release or in the step at hand
    if that is higher, so that an outage of now counts. None without one.
    """
    if analysis.error_rate.max_percent is not None:
        return analysis.error_rate.max_percent / 100
    if not watched:
        return None
    now = add_counts(*(total.stable for total in evidence.ordered if total.step == step))
    whole = ceiling_by(analysis, evidence.stable.requests, evidence.stable.failures)
    limit = max(whole, ceiling_by(analysis, now.started, FAILED.bad(now)) if now.started else 0.0)
    return limit if limit < 1 else None


def ceiling_by(analysis: Analysis, requests: int, bad: int) -> float:
    """The ceiling, as a fraction, that so many requests and bad answers of stable set."""
    return ceiling.upper_bound(requests, bad) + analysis.margin_percent / 100


def above_ceiling(evidence: Evidence, analysis: Analysis, step: int, watched: bool) -> float | None:
    """The ceiling, where the candidate is shown to fail more often in the step at hand; None while it is not."""
    limit = ceiling_of(evidence, analysis, step, watched)
    if limit is None:
        return None
    counts = add_counts(*(total.candidate for total in evidence.ordered if total.step == step))
    log_e = ceiling.log_e(counts.started, FAILED.bad(counts), limit)
    alpha = max(analysis.false_rollback_percent / 100, WATCHED_ALPHA if watched else 0.0)
    return limit if rejects(log_e, alpha) else None


def log_e_of(stream: Stream, totals: Sequence[Total]) -> float:
    """log E of one stream."""
    return label_test.log_e(_draws(totals, stream.bad), stream.tolerance)


def described(evidence: Evidence) -> str:
    """Both revisions' counts in a few words."""
    return f"{_in_words(evidence.candidate)} of the candidate against {_in_words(evidence.stable)} of stable"


def _evidence_of_worse(evidence: Evidence) -> tuple[float, Stream | None]:
    """log E of all streams together, and the stream that says most; None where that is the slow answers'."""
    totals = [total for total in evidence.ordered if total.judged]
    terms: list[tuple[float, Stream | None]] = [
        (math.log(stream.share) + log_e_of(stream, totals), stream) for stream in STREAMS
    ]
    terms.append((math.log(SLOW_SHARE) + _slow_log_e(evidence, totals), None))
    log_e = log_sum([*(log for log, _ in terms), math.log(UNDEFINED_SHARE)])
    return log_e, max(terms, key=lambda term: term[0])[1]


def _in_words(counts: RequestCounts) -> str:
    return f"{counts.failures} failures in {counts.requests} requests"


def _worse(evidence: Evidence, stream: Stream | None, log_e: float) -> Judged:
    """The verdict, naming the stream that decided and its counts on both sides."""
    if stream is None:
        return Judged(Verdict.WORSE, SLOW_REASON, SLOW_NAME, f"The candidate is slower: {_slow_words(evidence)}", log_e)
    drawn = [total for total in evidence.ordered if total.judged and total.weight > 0]
    candidate, stable = (add_counts(*side) for side in ([t.candidate for t in drawn], [t.stable for t in drawn]))
    of_stable = f"{stream.bad(stable)} of {stable.started} of stable"
    pair = f"{stream.bad(candidate)} of {candidate.started} requests of the candidate against {of_stable}"
    return Judged(Verdict.WORSE, stream.reason, stream.name, f"The candidate {stream.phrase}: {pair}", log_e)


def _slow_words(evidence: Evidence) -> str:
    """How many requests became slow on both sides, at the pair of edges that tells them apart best."""
    totals = [total for total in evidence.ordered if total.judged]
    pair = max(range(len(evidence.bounds)), key=lambda each: _pair_log_e(evidence, totals, each))
    edge = evidence.bounds[pair]
    drawn = [total for total in _counted(totals, pair) if total.weight > 0]
    candidate, stable = (add_counts(*side) for side in ([t.candidate for t in drawn], [t.stable for t in drawn]))
    return (
        f"{_slower(candidate, edge + 1)} of {candidate.started} requests of the candidate took over "
        f"{EDGES_SECONDS[edge + 1]:g} s, {_slower(stable, edge)} of {stable.started} of stable over "
        f"{EDGES_SECONDS[edge]:g} s"
    )


def _slower(counts: Counts, edge: int) -> int:
    """Requests that became as old as an edge, answered or not; never more than started."""
    return min(counts.older.get(edge, 0), counts.started)


def _draws(totals: Sequence[Total], bad: Bad, candidate_bad: Bad | None = None) -> list[Draws]:
    """Totals of equal weight and five minutes as draws, in their order."""
    candidate_bad = candidate_bad or bad
    sums: dict[tuple[float, float], list[int]] = {}
    for total in totals:
        counts = sums.setdefault((total.since, total.weight), [0, 0, 0, 0])
        counts[0] += total.stable.started
        counts[1] += total.candidate.started
        counts[2] += bad(total.stable)
        counts[3] += candidate_bad(total.candidate)
    return [Draws(weight, *counts) for (_, weight), counts in sums.items()]


def _answered(totals: Sequence[Total], stream: Stream) -> list[Draws]:
    """Settled totals for the bet: what nobody knows is bad for the candidate and good for stable.

    So is a connection that failed, among the failures: it says nothing of the program, but nothing good either.
    """
    unknown = {Outcome.LOST, Outcome.CONNECTION_FAILURE} if stream is FAILED else {Outcome.LOST}

    def candidate_bad(counts: Counts) -> int:
        return min(stream.bad(counts) + counts.ended_as(unknown), counts.started)

    return _draws(totals, stream.bad, candidate_bad)


def _slow_draws(evidence: Evidence, totals: Sequence[Total], pair: int) -> list[Draws]:
    """Stable is slow beyond an edge, the candidate beyond the next one, about 25 % later: the tolerance in time."""
    edge = evidence.bounds[pair]
    return _draws(
        totals,
        lambda counts: _slower(counts, edge),
        lambda counts: _slower(counts, edge + 1),
    )


def _slow_log_e(evidence: Evidence, totals: Sequence[Total]) -> float:
    """log of the average over the pairs of edges. Requests count when they reach the edge, answered or not."""
    if not evidence.bounds:
        return 0.0
    logs = [_pair_log_e(evidence, totals, pair) for pair in range(len(evidence.bounds))]
    return log_sum(logs) - math.log(len(logs))


def _pair_log_e(evidence: Evidence, totals: Sequence[Total], pair: int) -> float:
    return label_test.log_e(_slow_draws(evidence, _counted(totals, pair), pair))


def _counted(totals: Sequence[Total], pair: int) -> list[Total]:
    """The totals that count for a pair of edges: cold pods are slow for reasons that pass."""
    return [each for each in totals if each.bounded and (each.warm or pair >= WARM_PAIRS)]
