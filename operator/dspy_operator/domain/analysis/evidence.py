"""What a release knows: the totals of its draw tables. All that is judged is a pure function of these.

Tables arrive from the gateways and are kept as they were seen last. In the order in which they opened, over all pods,
those that are settled are merged into totals of one weight and five minutes; one that is not settled holds back all
later ones, so that nothing is chosen by outcome. Nothing is counted twice and nothing is lost: a restart, another
replica, a late or lost poll give the same totals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from dspy_contract.outcomes import FAILURES, Outcome
from dspy_contract.stat_names import cached, mirrored, of_users
from dspy_contract.state import WARMUP_SECONDS, Counts, DrawTable, GatewayState
from dspy_operator.api.times import UnixSeconds
from dspy_operator.domain.analysis.mean_test import Bets, Spent, added, bets
from dspy_operator.domain.analysis.request_counts import RequestCounts, add_counts, request_counts
from dspy_operator.domain.analysis.streams import Stream, slow_bounds
from dspy_operator.domain.analysis.users import NO_USERS, UserTotals

TOTAL_SECONDS = 300.0
GONE_SECONDS = 60.0
"""A pod that is not heard of for this long is gone, and what it had open is lost."""

MOST_TOTALS = 200
BEFORE = -1
"""The step of tables that are not of this release."""
RECENT_REQUESTS, RECENT_OVERLOAD, RECENT_CONNECTIONS = 100.0, 50.0, 10.0
MOST_FAILURES_FOR_SLOW = 0.1


@dataclass(frozen=True, slots=True)
class Look:
    """Which release is looked at, and when (Unix seconds). `step` is the one at hand."""

    uid: str
    stable: str
    candidate: str
    release: int
    step: int
    now: float
    spending: tuple[Stream, ...] = ()
    """The streams that are judged by what answers take or cost."""


@dataclass(frozen=True, slots=True)
class Total:
    """Settled tables of one weight and of five minutes.

    `weight` is the candidate's share of the draw. `bounded`: the bounds of slow answers were fixed before it was
    drawn; `warm`: the candidate had not just grown; `step`: the release's step in which it opened.
    """

    weight: float
    since: UnixSeconds
    judged: bool
    bounded: bool
    warm: bool
    step: int
    stable: Counts = Counts()
    candidate: Counts = Counts()
    users_of_stable: Counts = Counts()
    users_of_candidate: Counts = Counts()
    """Requests of users who were drawn: these are counted apart, for none of them was drawn itself."""

    bets: Mapping[str, Bets] = field(default_factory=dict)
    """That the candidate takes or costs more, by stream."""
    copied: bool = False
    """The candidate got copies of stable's requests: of all requests and copies together, `weight` were its."""

    @property
    def all_of_stable(self) -> Counts:
        """All of stable's requests."""
        return add_counts(self.stable, self.users_of_stable)

    @property
    def all_of_candidate(self) -> Counts:
        """All of the candidate's requests."""
        return add_counts(self.candidate, self.users_of_candidate)


@dataclass(frozen=True, slots=True)
class Table:
    """A draw table of a gateway pod as it was seen last (Unix seconds). `total` is what it will be merged as."""

    pod: str
    incarnation: str
    number: int
    opened_at: UnixSeconds
    seen_at: UnixSeconds
    settled: bool
    total: Total

    @property
    def series(self) -> str:
        """The pod and the incarnation that number it."""
        return f"{self.pod}/{self.incarnation}"


@dataclass(frozen=True, slots=True)
class Recent:
    """Bad answers among the last requests or so, the older the lighter: for rules of health, never for a test.

    `seen_requests` and `seen_bad` are the sums that it was told last.
    """

    requests: float = 0.0
    bad: float = 0.0
    seen_requests: int = 0
    seen_bad: int = 0

    @property
    def share(self) -> float:
        """Bad answers per request, a fraction; 0 without requests."""
        return min(self.bad / self.requests, 1.0) if self.requests else 0.0

    def after(self, requests: int, bad: int, memory: float) -> Recent:
        """After sums that only grow.

        Many at once are spread over the memory as if they had come one by one: a long history must not drown what
        happens now.
        """
        more, worse = max(requests - self.seen_requests, 0), max(bad - self.seen_bad, 0)
        keep = math.exp(-more / memory)
        each = memory * (1 - keep) / more if more else 1.0
        return Recent(keep * self.requests + more * each, keep * self.bad + worse * each, requests, bad)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Totals in their order, the tables that are not merged yet, and what is fixed for the release."""

    totals: tuple[Total, ...] = ()
    tables: Mapping[str, Table] = field(default_factory=dict)
    kept: Mapping[str, int] = field(default_factory=dict)
    """By pod and incarnation, the number of the last table that was merged."""
    bounds: tuple[int, ...] = ()
    """Edges of the grid beyond which an answer of stable is slow; fixed once."""
    epoch: int = 0
    """The epoch of tables that opened after the bounds were fixed."""
    stable_recent: Recent = Recent()
    """Failures among stable's last 100 requests."""
    stable_unreachable: Recent = Recent()
    candidate_unreachable: Recent = Recent()
    """Connections that failed among the last 10 requests."""
    stable_overloaded: Recent = Recent()
    candidate_overloaded: Recent = Recent()
    """Requests among the last 50 that the pods had no room for."""
    users: UserTotals = NO_USERS
    """As the gateways tell now; never stored."""

    @property
    def ordered(self) -> tuple[Total, ...]:
        """All totals in their order, those of tables that are not merged yet at the end."""
        return (*self.totals, *(table.total for table in self.waiting))

    @property
    def waiting(self) -> list[Table]:
        """The tables that are not merged yet, in the order in which they opened.

        Those of one pod by their numbers, whatever an answer that came late made of their ages.
        """
        earliest: dict[str, float] = {}
        placed: list[tuple[float, Table]] = []
        for table in sorted(self.tables.values(), key=lambda table: -table.number):
            earliest[table.series] = min(table.opened_at, earliest.get(table.series, math.inf))
            placed.append((earliest[table.series], table))
        placed.sort(key=lambda each: (each[0], each[1].pod, each[1].incarnation, each[1].number))
        return [table for _, table in placed]

    @property
    def newest_tables(self) -> dict[str, int]:
        """By gateway pod and incarnation, the number of the newest table that was seen."""
        newest = dict(self.kept)
        for table in self.tables.values():
            newest[table.series] = max(newest.get(table.series, 0), table.number)
        return newest

    @property
    def history(self) -> RequestCounts:
        """Stable's requests before the release."""
        return request_counts(add_counts(*(total.all_of_stable for total in self.ordered if total.step < 0)))

    @property
    def stable(self) -> RequestCounts:
        """Stable's requests since the release began."""
        return request_counts(add_counts(*(total.all_of_stable for total in self.ordered if total.step >= 0)))

    @property
    def candidate(self) -> RequestCounts:
        """The candidate's requests, and copies that it got."""
        return request_counts(add_counts(*(total.all_of_candidate for total in self.ordered)))

    @property
    def served(self) -> RequestCounts:
        """The candidate's requests, without copies."""
        return request_counts(add_counts(*(total.all_of_candidate for total in self.ordered if not total.copied)))

    @property
    def copies(self) -> int:
        """How many requests were copied to the candidate."""
        return sum(total.candidate.started for total in self.ordered if total.copied)


def accumulate(
    evidence: Evidence, states: Mapping[str, GatewayState], look: Look, users: UserTotals = NO_USERS
) -> Evidence:
    """The evidence after one look at the gateways. Tables of no release, or of another, tell how stable was before.

    `states` holds what each pod said last, `users` what is known of users now.
    """
    tables = dict(evidence.tables)
    incarnations = {pod: state.incarnation for pod, state in states.items()}
    for pod, state in states.items():
        program = state.programs.get(look.uid)
        series = f"{pod}/{state.incarnation}"
        for told in program.tables if program else ():
            if told.number > evidence.kept.get(series, 0):
                key = f"{series}/{told.number}"
                before = tables.get(key)
                opened_at = before.opened_at if before else look.now - told.age_seconds
                total = _total(before, told, opened_at, evidence, look)
                tables[key] = Table(pod, state.incarnation, told.number, opened_at, look.now, told.settled, total)
    tables = {key: _lost_if_gone(table, incarnations, look.now) for key, table in tables.items()}
    return _merged(_with_bounds(_with_recent(replace(evidence, tables=tables, users=users))), look.spending)


def _with_recent(evidence: Evidence) -> Evidence:
    ordered = evidence.ordered
    stable = add_counts(*(total.all_of_stable for total in ordered))
    candidate = add_counts(*(total.all_of_candidate for total in ordered))
    lost, full = {Outcome.CONNECTION_FAILURE}, {Outcome.OVERLOADED}
    return replace(
        evidence,
        stable_recent=_after(evidence.stable_recent, stable, FAILURES, RECENT_REQUESTS),
        stable_unreachable=_after(evidence.stable_unreachable, stable, lost, RECENT_CONNECTIONS),
        candidate_unreachable=_after(evidence.candidate_unreachable, candidate, lost, RECENT_CONNECTIONS),
        stable_overloaded=_after(evidence.stable_overloaded, stable, full, RECENT_OVERLOAD),
        candidate_overloaded=_after(evidence.candidate_overloaded, candidate, full, RECENT_OVERLOAD),
    )


def _after(recent: Recent, counts: Counts, bad: Collection[str], memory: float) -> Recent:
    return recent.after(counts.started, counts.ended_as(bad), memory)


def _total(before: Table | None, told: DrawTable, opened_at: float, evidence: Evidence, look: Look) -> Total:
    """What a table will be merged as. In which step it opened, and whether slow answers count, was decided at first."""
    copies = mirrored(look.candidate)
    own, copied = told.release == look.release, told.weights.get(copies, 0) > 0
    name = copies if copied else look.candidate
    weights = [told.weights.get(each, 0) for each in (look.stable, name)]
    stable = told.counts.get(look.stable, Counts())
    users = [told.counts.get(of_users(each), Counts()) for each in (look.stable, look.candidate)]
    if copied:
        # Every request of stable may be copied, whosever it is: the copy is drawn for itself.
        stable, users = add_counts(stable, users[0]), [Counts(), Counts()]
    return Total(
        weight=weights[1] / sum(weights) if own and sum(weights) > 0 else 0.0,
        copied=copied,
        since=opened_at // TOTAL_SECONDS * TOTAL_SECONDS,
        judged=told.judged,
        bounded=before.total.bounded if before else _is_bounded(evidence, told),
        warm=told.warm_seconds >= WARMUP_SECONDS,
        step=before.total.step if before else (BEFORE if _is_before(told, look, weights[1]) else look.step),
        stable=stable,
        candidate=told.counts.get(name, Counts()) if own else Counts(),
        users_of_stable=users[0],
        users_of_candidate=users[1] if own else Counts(),
    )


def _is_before(told: DrawTable, look: Look, weight: int) -> bool:
    """Whether a table tells how stable was before the candidate had anything. Where answers are given again, only what
    was drawn within the release goes past that, until the candidate gets something."""
    if told.release != look.release:
        return True
    return look.step == 0 and not weight and cached(look.stable) in told.weights


def _is_bounded(evidence: Evidence, table: DrawTable) -> bool:
    """Whether slow answers of a table count: its bounds were fixed before, and stable mostly answered.

    Decided by the past alone. Beside a stable that fails at once, every good answer would be slow.
    """
    return bool(evidence.bounds) and table.epoch >= evidence.epoch and _stable_answers(evidence)


def _stable_answers(evidence: Evidence) -> bool:
    return evidence.stable_recent.share <= MOST_FAILURES_FOR_SLOW


def _lost_if_gone(table: Table, incarnations: Mapping[str, str], now: float) -> Table:
    """A table whose pod is gone, or has begun anew, is settled: what it had open is lost."""
    replaced = incarnations.get(table.pod, table.incarnation) != table.incarnation
    if table.settled or not (replaced or now - table.seen_at > GONE_SECONDS):
        return table
    return replace(table, settled=True, total=_of_each_side(table.total, _lose_open))


def _lose_open(counts: Counts) -> Counts:
    lost = counts.outcomes.get(Outcome.LOST, 0) + counts.open
    return replace(counts, outcomes={**counts.outcomes, Outcome.LOST.value: lost}) if counts.open else counts


def _of_each_side(total: Total, change: Callable[[Counts], Counts]) -> Total:
    return replace(
        total,
        stable=change(total.stable),
        candidate=change(total.candidate),
        users_of_stable=change(total.users_of_stable),
        users_of_candidate=change(total.users_of_candidate),
    )


def _with_bounds(evidence: Evidence) -> Evidence:
    """The bounds of slow answers, fixed once from stable's first answers; only tables of a new epoch use them."""
    if evidence.bounds or not _stable_answers(evidence):
        return evidence
    bounds = slow_bounds(add_counts(*(total.all_of_stable for total in evidence.ordered)))
    return replace(evidence, bounds=bounds, epoch=evidence.epoch + 1) if bounds else evidence


def _merged(evidence: Evidence, spending: Collection[Stream]) -> Evidence:
    totals, tables, kept = list(evidence.totals), dict(evidence.tables), dict(evidence.kept)
    for table in evidence.waiting:
        if not table.settled:
            break
        kept[table.series] = max(kept.get(table.series, 0), table.number)
        del tables[f"{table.series}/{table.number}"]
        _merge_into(totals, _with_bets(table.total, spending))
    return replace(evidence, totals=tuple(_shortened(totals)), tables=tables, kept=kept)


def _with_bets(total: Total, spending: Collection[Stream]) -> Total:
    if not spending or not total.judged or not 0 < total.weight < 1:
        return total
    return replace(total, bets={stream.name: bets(_spent(total, stream), stream.tolerance) for stream in spending})


def _spent(total: Total, stream: Stream) -> Spent:
    stable, candidate = stream.spent(total.stable), stream.spent(total.candidate)
    return Spent(stable[0], candidate[0], stable[1], candidate[1])


def _merge_into(totals: list[Total], total: Total) -> None:
    """Adds a total to the last one of its kind, if that is of the same five minutes and no later kind follows."""
    if totals and _kind(totals[-1]) == _kind(total):
        totals[-1] = _sum(totals[-1], total)
    else:
        totals.append(total)


def _shortened(totals: list[Total]) -> list[Total]:
    """A long release keeps a bounded number of totals: the oldest two that differ in time only become one.

    What is chosen depends on no outcome, so the order that results is as good as the one before.
    """
    while len(totals) > MOST_TOTALS:
        first: dict[tuple[float, bool, bool, bool, bool, int], int] = {}
        for later, total in enumerate(totals):
            earlier = first.setdefault(_kind(total)[1:], later)
            if earlier < later:
                totals[earlier] = _sum(totals[earlier], totals.pop(later))
                break
        else:
            break
    return totals


def _kind(total: Total) -> tuple[float, float, bool, bool, bool, bool, int]:
    return total.since, total.weight, total.copied, total.judged, total.bounded, total.warm, total.step


def _sum(left: Total, right: Total) -> Total:
    return replace(
        left,
        stable=add_counts(left.stable, right.stable),
        candidate=add_counts(left.candidate, right.candidate),
        users_of_stable=add_counts(left.users_of_stable, right.users_of_stable),
        users_of_candidate=add_counts(left.users_of_candidate, right.users_of_candidate),
        bets={name: added(left.bets.get(name, ()), right.bets.get(name, ())) for name in {**left.bets, **right.bets}},
    )
