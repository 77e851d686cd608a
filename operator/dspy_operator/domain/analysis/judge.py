"""The verdict on a candidate, from totals alone: the guard, a pass, another replica and a reader all get the same.

One label test a stream, averaged with fixed shares (valid under any dependence between streams): one alpha for the
release. Lowered at 1/alpha, refused when 1/20 still stands once every table that drew the candidate is settled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce

from dspy_contract.outcomes import Outcome
from dspy_contract.routes import COST
from dspy_contract.state import EDGES_SECONDS, Counts
from dspy_operator.api.rollout import Analysis
from dspy_operator.domain.analysis import ceiling, label_test, mean_test, no_worse
from dspy_operator.domain.analysis.draws import Draws, log_sum, rejects
from dspy_operator.domain.analysis.evidence import Evidence, Total
from dspy_operator.domain.analysis.request_counts import RequestCounts, add_counts
from dspy_operator.domain.analysis.streams import (
    BOUNDS_ANSWERS,
    FAILED,
    MIDDLE_PAIR,
    SLOW,
    SLOW_MARGIN,
    WARM_PAIRS,
    Stream,
    failed_of,
    streams_of,
)
from dspy_operator.domain.analysis.users import Group
from dspy_operator.domain.analysis.verdict import Judged, Side, StreamJudged, Verdict, sides_of

WATCHED_ALPHA = 0.01
"""Of the ceiling while a candidate is watched. A wrong doubt costs it some traffic, and no release."""

CONFIRMS = 0.05
"""A lowered candidate is refused when E is at least 1/0.05 once every answer is in."""

LEAST_USERS = 50
"""With fewer users nothing is judged by them."""

LEAST_RESERVE = 1e-9
"""Of alpha: less is what rounding leaves."""

MOST = 0.5
"""With more of the traffic than this, a candidate's pods have more to do than as many of stable's."""

Bad = Callable[[Counts], int]


def judge(evidence: Evidence, analysis: Analysis) -> Judged:
    """The verdict now. Looking often is free: each test is valid at any look."""
    log_e, stream = _evidence_of_worse(evidence, analysis)
    if stream and rejects(log_e, _alpha(analysis)):
        return _worse(evidence, stream, log_e)
    if is_no_worse(evidence, analysis):
        return Judged(Verdict.NO_WORSE, "", "", f"The candidate is no worse: {described(evidence)}", log_e)
    return Judged(Verdict.UNDECIDED, "", "", f"Not decided yet: {described(evidence)}", log_e)


def judge_worse(evidence: Evidence, analysis: Analysis) -> Judged | None:
    """The verdict if it is Worse: all that the guard asks, for less than the whole."""
    log_e, stream = _evidence_of_worse(evidence, analysis)
    return _worse(evidence, stream, log_e) if stream and rejects(log_e, _alpha(analysis)) else None


def judge_stream(evidence: Evidence, analysis: Analysis, stream: Stream) -> StreamJudged:
    """What one stream alone says: what people read beside the verdict of all."""
    totals = [total for total in evidence.ordered if total.judged]
    log_e = _log_e_of(evidence, totals, stream)
    share = 1.0 if stream.dry_run else stream.share
    verdict = Verdict.UNDECIDED
    if share and rejects(log_e + math.log(share), _alpha(analysis)):
        verdict = Verdict.WORSE
    elif not stream.spends and _is_no_worse(evidence, analysis, stream):
        verdict = Verdict.NO_WORSE
    return StreamJudged(verdict, log_e, *_sides(evidence, stream), *sides_of(user_draws(evidence, stream)))


def is_confirmed(judged: Judged) -> bool:
    """True when the evidence still stands once every answer is in."""
    return rejects(judged.log_e, CONFIRMS)


def is_no_worse(evidence: Evidence, analysis: Analysis) -> bool:
    """True when every stream that is judged is shown no worse by its margin, on settled tables in their order. Copies
    show nothing good: nobody waited for their answers."""
    judged = [stream for stream in streams_of(analysis.streams) if not stream.dry_run and not stream.spends]
    return bool(judged) and all(_is_no_worse(evidence, analysis, stream) for stream in judged)


def is_better(evidence: Evidence, alpha: float) -> bool:
    """True when stable is shown to be the worse one: the same test with the roles exchanged."""
    totals = [total for total in evidence.ordered if total.judged and not total.copied]
    draws = [*_draws(totals, FAILED.bad), *user_draws(evidence, FAILED)]
    return rejects(label_test.log_e([each.exchanged() for each in draws]), alpha)


def ceiling_of(evidence: Evidence, analysis: Analysis, step: int, watched: bool) -> float | None:
    """How often, as a fraction, the candidate may fail before it is doubted: the policy's limit.

    With nearly all of the traffic the label test is slow, for a bad answer weighs 1 / weight: there a candidate that is
    `watched` has the ceiling that stable sets: the margin above its upper bound, in this release or in the step at hand
    if that is higher, so that an outage of now counts. None without one.
    """
    failed = failed_of(analysis.streams)
    if failed is None:
        return None
    if failed.limit is not None or not watched:
        return failed.limit
    now = add_counts(*(total.all_of_stable for total in evidence.ordered if total.step == step))
    whole = ceiling_by(analysis, evidence.stable.requests, evidence.stable.failures)
    limit = max(whole, ceiling_by(analysis, now.started, FAILED.bad(now)) if now.started else 0.0)
    return limit if limit < 1 else None


def ceiling_by(analysis: Analysis, requests: int, bad: int) -> float:
    """The ceiling, as a fraction, that so many requests and bad answers of stable set."""
    return ceiling.upper_bound(requests, bad) + analysis.margin_percent / 100


def above_ceiling(evidence: Evidence, analysis: Analysis, step: int, watched: bool) -> tuple[Stream, float] | None:
    """A stream and its ceiling, where the candidate is shown to be above it in the step at hand; None while it is
    not."""
    counts = add_counts(*(total.all_of_candidate for total in evidence.ordered if total.step == step))
    alpha = max(_alpha(analysis), WATCHED_ALPHA if watched else 0.0)
    for stream in (FAILED, *(each for each in streams_of(analysis.streams) if each.name != FAILED.name)):
        limit = None if stream.dry_run else stream.limit
        if stream.name == FAILED.name:
            limit = ceiling_of(evidence, analysis, step, watched)
        bad = _bad_of_candidate(evidence, stream)(counts)
        if limit is not None and rejects(ceiling.log_e(counts.started, bad, limit), alpha):
            return stream, limit
    return None


def described(evidence: Evidence) -> str:
    """Both revisions' counts in a few words."""
    candidate = f"{_in_words(evidence.candidate)}{_copies(evidence, 'requests')} of the candidate"
    users = evidence.users
    drawn = f"; of {users.number} who were drawn {users.grown} can be compared" if users.number else ""
    return f"{candidate} against {_in_words(evidence.stable)} of stable{drawn}"


def _alpha(analysis: Analysis) -> float:
    return analysis.false_rollback_percent / 100


def _evidence_of_worse(evidence: Evidence, analysis: Analysis) -> tuple[float, Stream | None]:
    """log E of all streams together, and the stream that says most; None without any. What they leave of alpha bets on
    nothing."""
    totals = [total for total in evidence.ordered if total.judged]
    judged = [stream for stream in streams_of(analysis.streams) if stream.share and not stream.dry_run]
    terms = [(math.log(stream.share) + _log_e_of(evidence, totals, stream), stream) for stream in judged]
    reserve = 1 - sum(stream.share for stream in judged)
    log_e = log_sum([*(log for log, _ in terms), *([math.log(reserve)] if reserve > LEAST_RESERVE else [])])
    return log_e, max(terms, key=lambda term: term[0])[1] if terms else None


def _log_e_of(evidence: Evidence, totals: Sequence[Total], stream: Stream) -> float:
    if stream.name == SLOW.name:
        return _slow_log_e(evidence, totals, stream.tolerance)
    if stream.spends:
        bets = (total.bets.get(stream.name, ()) for total in evidence.totals)
        return mean_test.log_e(reduce(mean_test.added, bets, ()))
    return label_test.log_e([*_draws(totals, stream.bad), *user_draws(evidence, stream)], stream.tolerance)


def spent_in_words(evidence: Evidence, stream: Stream) -> str:
    """What a request takes or costs, on both sides."""
    stable, candidate = _drawn([total for total in evidence.ordered if total.judged])
    unknown = sum(counts.answered - stream.spent(counts)[0] for counts in (stable, candidate))
    beside = f"; the price of {unknown} answers is not known" if stream.name == COST and unknown > 0 else ""
    of_each = f"{stream.spent_in_words(candidate)} a request of the candidate against {stream.spent_in_words(stable)}"
    return f"{of_each} of stable{beside}"


def user_draws(evidence: Evidence, stream: Stream, pair: int = MIDDLE_PAIR, compared: bool = False) -> list[Draws]:
    """Users as draws of one stream, by their weight: bad is who met a bad answer. Empty while there are too few.

    What is slow is known from stable's first answers, for users who came after them. `compared`: those who were there
    for long enough, and both beyond the same edge, without a tolerance in time.
    """
    groups = evidence.users.compared if compared else evidence.users.groups
    if stream.name == SLOW.name:
        groups = tuple(each for each in groups if evidence.bounds and each.epoch >= evidence.epoch)
    if sum(group.users for group in groups) < LEAST_USERS:
        return []
    sums: dict[tuple[float, float], list[int]] = {}
    for group in groups:
        # Compared are all at once; the guard looks at those who came together, in their order.
        counts = sums.setdefault((0.0 if compared else group.since, group.weight), [0, 0, 0, 0])
        counts[group.of_candidate] += group.users
        if _is_bad(group, stream, evidence, pair, tolerant=not compared):
            counts[2 + group.of_candidate] += group.users
    return [Draws(weight, *counts) for (_, weight), counts in sorted(sums.items())]


def _is_bad(group: Group, stream: Stream, evidence: Evidence, pair: int, tolerant: bool) -> bool:
    if stream.name == SLOW.name:
        return group.edge >= evidence.bounds[pair] + (group.of_candidate and tolerant)
    return stream.flag in group.flags if stream.flag else bool(stream.outcomes & group.outcomes)


def _is_no_worse(evidence: Evidence, analysis: Analysis, stream: Stream) -> bool:
    """Of requests that are answered, and of users who have been there for long enough. What is slow is known from
    stable's first answers: before them nothing is shown."""
    totals = [total for total in evidence.totals if total.judged and not total.copied]
    users = user_draws(evidence, stream, compared=True)
    if stream.name != SLOW.name:
        draws = [*_answered(totals, stream), *users]
        return rejects(no_worse.log_e(draws, analysis.margin_percent / 100), no_worse.ALPHA)
    if not evidence.bounds:
        return False
    bounded = [total for total in totals if total.bounded]
    draws = [*_slow_draws(evidence, bounded, MIDDLE_PAIR), *users]
    return rejects(no_worse.log_e(draws, SLOW_MARGIN), no_worse.ALPHA)


def _bad_of_candidate(evidence: Evidence, stream: Stream) -> Bad:
    if stream.name != SLOW.name:
        return stream.bad
    return lambda counts: _slower(counts, evidence.bounds[MIDDLE_PAIR] + 1) if evidence.bounds else 0


def _sides(evidence: Evidence, stream: Stream) -> tuple[Side, Side]:
    """Stable's and the candidate's requests that were drawn, and the bad ones among them."""
    stable, candidate = _drawn([total for total in evidence.ordered if total.judged])
    bad_of_stable = stream.bad(stable)
    if stream.name == SLOW.name:
        bad_of_stable = _slower(stable, evidence.bounds[MIDDLE_PAIR]) if evidence.bounds else 0
    bad = _bad_of_candidate(evidence, stream)(candidate)
    return Side(stable.started, bad_of_stable), Side(candidate.started, bad)


def _copies(evidence: Evidence, unit: str) -> str:
    """How many were copies, which no client waited for."""
    return f" ({evidence.copies} of them copies)" if evidence.copies and unit == "requests" else ""


def _in_words(counts: RequestCounts) -> str:
    return f"{counts.failures} failures in {counts.requests} requests"


def _worse(evidence: Evidence, stream: Stream, log_e: float) -> Judged:
    """The verdict, naming the stream that decided and its counts on both sides."""
    if stream.name == SLOW.name:
        words = f"The candidate is slower: {_slow_words(evidence)}"
    elif stream.spends:
        words = f"The candidate {stream.verb}: {spent_in_words(evidence, stream)}"
    else:
        words = f"The candidate {stream.verb} more often: {_pairs_in_words(evidence, stream)}"
    return Judged(Verdict.WORSE, stream.reason, stream.name, words, log_e)


def _pairs_in_words(evidence: Evidence, stream: Stream) -> str:
    """The counts on both sides: of users, of requests, or of both where both were drawn."""
    pairs = (("users", sides_of(user_draws(evidence, stream))), ("requests", _sides(evidence, stream)))
    told = [(unit, stable, candidate) for unit, (stable, candidate) in pairs if stable.requests or candidate.requests]
    return ", and ".join(
        f"{candidate.bad} of {candidate.requests} {unit}{_copies(evidence, unit)} of the candidate against "
        f"{stable.bad} of {stable.requests} of stable"
        for unit, stable, candidate in told
    )


def _slow_words(evidence: Evidence) -> str:
    """How many requests, or users, became slow on both sides, at the pair of edges that tells them apart best."""
    totals = [total for total in evidence.ordered if total.judged]
    pair = max(range(len(evidence.bounds)), key=lambda each: _pair_log_e(evidence, totals, each))
    edge = evidence.bounds[pair]
    drawn = [*_slow_draws(evidence, _counted(totals, pair), pair), *user_draws(evidence, SLOW, pair)]
    stable, candidate = sides_of([each for each in drawn if each.drawn])
    unit = "users" if evidence.users.groups else "requests"
    return (
        f"{candidate.bad} of {candidate.requests} {unit}{_copies(evidence, unit)} of the candidate "
        f"took over {EDGES_SECONDS[edge + 1]:g} s, "
        f"{stable.bad} of {stable.requests} of stable over {EDGES_SECONDS[edge]:g} s"
    )


def _drawn(totals: Sequence[Total]) -> tuple[Counts, Counts]:
    """Stable's and the candidate's counts where each request could have gone to either."""
    drawn = [total for total in totals if total.weight > 0]
    return add_counts(*(total.stable for total in drawn)), add_counts(*(total.candidate for total in drawn))


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
    unknown = {Outcome.LOST, Outcome.CONNECTION_FAILURE} if stream.name == FAILED.name else {Outcome.LOST}

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


def _slow_log_e(evidence: Evidence, totals: Sequence[Total], tolerance: float) -> float:
    """log of the average over the pairs of edges. Requests count when they reach the edge, answered or not."""
    if not evidence.bounds:
        return 0.0
    logs = [_pair_log_e(evidence, totals, pair, tolerance) for pair in range(len(evidence.bounds))]
    return log_sum(logs) - math.log(len(logs))


def _pair_log_e(evidence: Evidence, totals: Sequence[Total], pair: int, tolerance: float = 0.0) -> float:
    """Of draws with most of the traffic only where the candidate is slower than stable was before, which had all of it:
    pods that have more to do than stable's are slower for that. So it is never more than the test of all draws says."""
    draws = [*_slow_draws(evidence, _counted(totals, pair), pair), *user_draws(evidence, SLOW, pair)]
    log_e = label_test.log_e(draws, tolerance)
    light = [each for each in draws if each.weight <= MOST]
    if len(light) == len(draws) or _is_slower_than_before(evidence, pair):
        return log_e
    return min(log_e, label_test.log_e(light, tolerance))


def _is_slower_than_before(evidence: Evidence, pair: int) -> bool:
    """Whether the candidate, with most of the traffic, is slow more often than stable was before the release."""
    edge = evidence.bounds[pair]
    before = add_counts(*(total.all_of_stable for total in evidence.ordered if total.step < 0))
    heavy = [total for total in evidence.ordered if total.weight > MOST and total.bounded and not total.copied]
    now = add_counts(*(total.all_of_candidate for total in heavy))
    if before.started < BOUNDS_ANSWERS:
        return True  # nothing is known of then
    return _slower(now, edge + 1) > now.started * ceiling.upper_bound(before.started, _slower(before, edge))


def _counted(totals: Sequence[Total], pair: int) -> list[Total]:
    """The totals that count for a pair of edges: cold pods are slow for reasons that pass."""
    return [each for each in totals if each.bounded and (each.warm or pair >= WARM_PAIRS)]
