"""Tables become evidence: each counted once, in the order in which they opened, whoever is late, gone or restarted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dspy_contract.state import EDGES_SECONDS, Counts, DrawTable, GatewayState, ProgramState
from dspy_operator.api.convert import from_dict, to_dict
from dspy_operator.api.rollout import Analysis, Stream
from dspy_operator.domain.analysis.evidence import MOST_TOTALS, Evidence, Look, accumulate
from dspy_operator.domain.analysis.judge import above_ceiling, is_better, is_no_worse, judge
from dspy_operator.domain.analysis.streams import FAILED, slow_bounds
from dspy_operator.domain.analysis.verdict import Verdict

UID, RELEASE = "uid", 3
STARTED_AT = 1_000.0


def table(number: int, old: Counts, new: Counts, weight: int = 1_000, **about: Any) -> DrawTable:
    """A table of weights `weight` for the candidate, one second old."""
    plain = DrawTable(number, 1.0, {"old": 10_000 - weight, "new": weight}, {"old": old, "new": new})
    return replace(plain, **{"release": RELEASE, "warm_seconds": 60.0, **about})


def state(*tables: DrawTable, pod: str = "a", incarnation: str = "i") -> GatewayState:
    return GatewayState(pod, incarnation, "", {UID: ProgramState(tables=tables)})


def look(evidence: Evidence, *states: GatewayState, now: float = STARTED_AT + 10, step: int = 0) -> Evidence:
    return accumulate(evidence, {each.pod: each for each in states}, Look(UID, "old", "new", RELEASE, step, now))


def bounded(evidence: Evidence) -> Evidence:
    """The evidence as if what is slow had been known before, and nothing had been slow."""
    totals = tuple(replace(total, bounded=True) for total in evidence.totals)
    return replace(evidence, bounds=(8,) * 5, totals=totals)


def ok(requests: int) -> Counts:
    return Counts(requests, {"ok": requests})


def failed(requests: int, failures: int, outcome: str = "program_error") -> Counts:
    return Counts(requests, {"ok": requests - failures, outcome: failures})


def test_a_table_is_counted_once_however_often_it_is_seen() -> None:
    evidence = look(look(Evidence(), state(table(1, ok(9), ok(1)))), state(table(1, ok(90), ok(10))))
    assert (evidence.stable.requests, evidence.candidate.requests) == (90, 10)


def test_settled_tables_are_merged_and_never_taken_again() -> None:
    settled = table(1, ok(90), ok(10), settled=True)
    evidence = look(look(Evidence(), state(settled)), state(settled, table(2, ok(9), ok(1))))
    assert evidence.kept == {"a/i": 1}
    assert (len(evidence.totals), len(evidence.tables)) == (1, 1)
    assert evidence.stable.requests == 99


def test_one_table_that_is_not_settled_holds_back_all_later_ones_of_every_pod() -> None:
    hanging = table(1, ok(9), Counts(1), age_seconds=8.0)
    later = table(1, ok(900), ok(100), settled=True)
    evidence = look(Evidence(), state(hanging), state(later, pod="b"))
    assert evidence.totals == ()
    assert not is_no_worse(bounded(evidence), Analysis(margin_percent=50))
    evidence = look(evidence, state(replace(hanging, settled=True)), state(later, pod="b"))
    assert is_no_worse(bounded(evidence), Analysis(margin_percent=50))


def test_tables_of_one_pod_keep_the_order_of_their_numbers_when_an_answer_came_late() -> None:
    evidence = look(Evidence(), state(table(2, ok(9), ok(1), age_seconds=5.0)))
    late = state(table(1, ok(9), ok(1), age_seconds=1.0), table(2, ok(9), ok(1), age_seconds=6.0))
    assert [each.number for each in look(evidence, late).waiting] == [1, 2]


def test_a_long_release_keeps_few_totals_even_when_kinds_alternate() -> None:
    evidence, now = Evidence(), STARTED_AT
    for number in range(1, 600):
        now += 400.0
        settled = table(number, ok(90), ok(10), 1_000 + number % 2, settled=True, age_seconds=10.0)
        evidence = look(evidence, state(settled), now=now)
    assert len(evidence.totals) <= MOST_TOTALS
    assert evidence.stable.requests == 599 * 90


def test_what_a_pod_that_is_gone_had_open_is_lost_and_no_longer_waited_for() -> None:
    evidence = look(Evidence(), state(table(1, ok(9), Counts(1))))
    evidence = look(evidence, state(pod="b"), now=STARTED_AT + 200)
    assert evidence.totals[0].candidate.outcomes == {"lost": 1}
    assert evidence.tables == {}


def test_a_pod_that_begins_anew_ends_its_old_tables() -> None:
    evidence = look(Evidence(), state(table(1, ok(9), Counts(1))))
    evidence = look(evidence, state(table(1, ok(5), ok(0)), incarnation="j"))
    assert evidence.stable.requests == 14
    assert evidence.totals[0].candidate.outcomes == {"lost": 1}


def test_tables_before_the_release_tell_how_stable_was_and_are_no_part_of_it() -> None:
    before = DrawTable(1, 500.0, {"old": 10_000}, {"old": failed(1_000, 10)})
    evidence = look(Evidence(), state(before))
    assert (evidence.stable.requests, evidence.history.failures) == (0, 10)


def test_tables_of_an_earlier_release_of_the_same_revision_are_no_evidence() -> None:
    evidence = look(Evidence(), state(table(1, ok(90), failed(10, 10), release=RELEASE - 1)))
    assert evidence.candidate.requests == 0
    assert evidence.history.requests == 90
    assert judge(evidence, Analysis()).verdict is Verdict.UNDECIDED


def test_bounds_are_fixed_once_and_only_tables_of_the_next_epoch_use_them() -> None:
    slow_edge = EDGES_SECONDS.index(1.0)
    answers = Counts(200, {"ok": 200}, {edge: 200 if edge <= slow_edge else 0 for edge in range(len(EDGES_SECONDS))})
    evidence = look(Evidence(), state(table(1, answers, ok(0))))
    assert evidence.bounds == (slow_edge + 1,) * 5
    assert evidence.epoch == 1
    evidence = look(evidence, state(table(1, answers, ok(0)), table(2, answers, ok(10), epoch=1)))
    assert [total.bounded for total in evidence.ordered] == [False, True]
    assert evidence.bounds == (slow_edge + 1,) * 5


def test_too_few_answers_give_no_bounds() -> None:
    assert slow_bounds(ok(199)) == ()


def test_a_candidate_that_always_fails_is_worse_and_the_words_name_the_counts() -> None:
    judged = judge(look(Evidence(), state(table(1, ok(45), failed(5, 5)))), Analysis())
    assert (judged.verdict, judged.reason, judged.stream) == (Verdict.WORSE, "FailsMoreOften", "failed")
    assert "5 of 5 requests of the candidate against 0 of 45 of stable" in judged.message


def test_each_stream_has_a_reason_of_its_own() -> None:
    refuses = judge(look(Evidence(), state(table(1, ok(90), failed(10, 10, "client_error")))), Analysis())
    leaves = judge(look(Evidence(), state(table(1, ok(90), failed(10, 10, "cancelled")))), Analysis())
    assert (refuses.reason, leaves.reason) == ("RefusesMoreRequests", "ClientsLeave")


def slow(requests: int, slow: int) -> Counts:
    """So many of them older than the second edge of a pair."""
    return Counts(requests, {"ok": requests}, {8: slow, 9: slow})


@pytest.mark.parametrize(
    ("weight", "before", "candidate", "lowered"),
    [
        (9_500, 500, slow(19_000, 950), False),
        (9_500, 500, slow(19_000, 3_800), True),
        (1_000, 500, slow(1_900, 380), True),
        (9_500, None, slow(19_000, 950), True),
    ],
)
def test_most_of_the_traffic_makes_pods_slow(weight: int, before: int | None, candidate: Counts, lowered: bool) -> None:
    """Stable had all of it before and was as slow: that it is faster now, with a twentieth of it, tells nothing."""
    evidence = Evidence()
    if before is not None:
        evidence = look(evidence, state(table(1, slow(10_000, before), ok(0), release=None, settled=True)))
    evidence = replace(bounded(evidence), epoch=1)
    after = table(2, slow(1_000, 0), candidate, weight, epoch=1)
    evidence = look(evidence, state(after), step=1)
    verdict = judge(evidence, Analysis()).verdict
    assert (verdict is Verdict.WORSE) is lowered


def test_overload_and_connections_are_no_verdict() -> None:
    for outcome in ("overloaded", "connection_failure"):
        evidence = look(Evidence(), state(table(1, ok(900), failed(100, 100, outcome))))
        assert judge(evidence, Analysis()).verdict is not Verdict.WORSE


def test_an_outage_that_hits_both_is_no_evidence() -> None:
    evidence = look(Evidence(), state(table(1, failed(900, 900), failed(100, 100))))
    assert judge(evidence, Analysis()).verdict is not Verdict.WORSE


def test_copies_may_show_a_fault_and_prove_nothing_good() -> None:
    def copies(number: int, old: Counts, new: Counts) -> DrawTable:
        weights, counts = {"old": 10_000, "new": 0, "new/mirror": 2_500}, {"old": old, "new/mirror": new}
        return replace(table(number, old, new), weights=weights, counts=counts, settled=True)

    good = look(Evidence(), state(copies(1, ok(20_000), ok(5_000))))
    assert (good.candidate.requests, good.copies, good.totals[0].weight) == (5_000, 5_000, 0.2)
    assert "5000 requests (5000 of them copies)" in judge(good, Analysis()).message
    assert not is_no_worse(bounded(good), Analysis())
    drawn = look(Evidence(), state(table(1, ok(20_000), ok(5_000), weight=2_000, settled=True)))
    assert is_no_worse(bounded(drawn), Analysis())
    assert not is_better(look(Evidence(), state(copies(1, failed(400, 300), ok(100)))), 0.001)
    bad = judge(look(Evidence(), state(copies(1, ok(400), failed(100, 50)))), Analysis())
    assert bad.verdict is Verdict.WORSE


def test_a_table_that_flapped_is_shown_and_judged_by_nothing() -> None:
    evidence = look(Evidence(), state(table(1, ok(45), failed(5, 5), judged=False)))
    assert evidence.candidate.failures == 5
    assert judge(evidence, Analysis()).verdict is Verdict.UNDECIDED


def test_what_nobody_knows_is_bad_for_the_candidate() -> None:
    unknown = failed(600, 100, "lost")
    evidence = look(Evidence(), state(table(1, ok(600), unknown, weight=5_000, settled=True)))
    assert not is_no_worse(bounded(evidence), Analysis())
    evidence = look(Evidence(), state(table(1, unknown, ok(600), weight=5_000, settled=True)))
    assert is_no_worse(bounded(evidence), Analysis())


def test_nothing_is_shown_no_worse_before_it_is_known_what_is_slow() -> None:
    evidence = look(Evidence(), state(table(1, ok(600), ok(600), weight=5_000, settled=True)))
    assert is_no_worse(bounded(evidence), Analysis())
    assert not is_no_worse(replace(evidence, bounds=()), Analysis())


def test_stable_that_fails_beside_a_good_candidate_is_shown_to_be_the_worse_one() -> None:
    evidence = look(Evidence(), state(table(1, failed(100, 100), ok(100), weight=5_000)))
    assert is_better(evidence, 0.001)
    assert not is_better(look(Evidence(), state(table(1, ok(100), ok(100), weight=5_000))), 0.001)


def test_the_ceiling_looks_at_the_step_at_hand_only() -> None:
    limit = Analysis(streams=(Stream("failed", max_percent=5),))
    evidence = look(Evidence(), state(table(1, ok(100), failed(100, 40))), step=1)
    assert above_ceiling(evidence, limit, 1, watched=False) == (FAILED, 0.05)
    assert above_ceiling(evidence, limit, 2, watched=False) is None


def test_a_watched_candidate_has_the_ceiling_that_stable_sets() -> None:
    both = look(Evidence(), state(table(1, ok(100), failed(1_000, 200), weight=9_500)), step=1)
    assert above_ceiling(both, Analysis(), 1, watched=False) is None, "no limit is given"
    ceiling = above_ceiling(both, Analysis(), 1, watched=True)
    assert ceiling is not None
    assert 0.02 < ceiling[1] < 0.1
    outage = look(Evidence(), state(table(1, failed(100, 20), failed(1_000, 200), weight=9_500)), step=1)
    assert above_ceiling(outage, Analysis(), 1, watched=True) is None, "stable fails as often"
    alone = look(Evidence(), state(table(1, ok(0), failed(1_000, 200), weight=9_500)), step=1)
    assert above_ceiling(alone, Analysis(), 1, watched=True) is None, "there is nothing to compare with"


def test_evidence_survives_the_status() -> None:
    counts = Counts(20, {"ok": 19, "timeout": 1}, {5: 3})
    evidence = look(Evidence(), state(table(1, counts, ok(2), settled=True), table(2, counts, ok(2))))
    assert from_dict(to_dict(evidence), Evidence) == evidence
