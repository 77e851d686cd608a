"""Counts become evidence: increments of cumulative counters, blocks, and what is left out of them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from dspy_contract.state import Counts, GatewayState, ProgramState
from dspy_operator.api.convert import from_dict, to_dict
from dspy_operator.api.rollout import Analysis, ErrorRate
from dspy_operator.domain.analysis.evidence import Evidence, ReleasePair, RequestCounts, Verdict, accumulate, judge

NOW = 1_000.0
UID, ARMS = "uid", ReleasePair("old", "new", 100.0)


def gateway(since: float = 0.0, **revisions: Counts) -> GatewayState:
    return GatewayState("pod", "i", NOW - since, "", {UID: ProgramState(1, "", True, {}, revisions)})


def counted(started: int, **outcomes: int) -> Counts:
    return Counts(started, outcomes)


def folded(*looks: Mapping[str, GatewayState], analysis: Analysis | None = None) -> Evidence:
    evidence = Evidence()
    for look in looks:
        evidence = accumulate(evidence, look, UID, ARMS, analysis or Analysis(), NOW)
    return evidence


def test_a_pod_that_is_older_than_the_release_counts_from_its_first_look() -> None:
    evidence = folded(
        {"a": gateway(old=counted(1_000, ok=1_000))}, {"a": gateway(old=counted(1_010, ok=1_008, timeout=2))}
    )
    assert evidence.stable == RequestCounts(10, 2, answered=10)


def test_a_pod_born_after_the_release_began_counts_from_zero() -> None:
    assert folded({"a": gateway(since=101.0, old=counted(7, ok=7))}).stable == RequestCounts(7, answered=7)


def test_a_counter_that_fell_has_restarted() -> None:
    evidence = folded({"a": gateway(old=counted(50))}, {"a": gateway(old=counted(60))}, {"a": gateway(old=counted(3))})
    assert evidence.stable.requests == 13


def test_a_look_that_failed_adds_nothing_and_loses_nothing() -> None:
    evidence = folded({"a": gateway(old=counted(10))}, {}, {"a": gateway(old=counted(25))})
    assert evidence.stable.requests == 15


def test_the_same_look_twice_is_the_same_evidence() -> None:
    look = {"a": gateway(since=101.0, old=counted(10, ok=9, timeout=1), new=counted(2, ok=2))}
    once = folded(look)
    assert accumulate(once, look, UID, ARMS, Analysis(), NOW) == once


def test_a_block_stays_open_until_both_had_a_request() -> None:
    evidence = folded({"a": gateway(since=101.0, old=counted(10, ok=10))})
    assert evidence.failures.requests == 0
    assert evidence.open_stable == RequestCounts(10, answered=10)


@pytest.mark.parametrize("outcome", ["program_error", "upstream_error", "timeout", "connection_failure", "overloaded"])
def test_a_candidate_that_fails_in_any_way_is_worse(outcome: str) -> None:
    looks = [
        {"a": gateway(101.0, old=counted(20 * n, ok=20 * n), new=counted(2 * n, **{outcome: 2 * n}))}
        for n in range(1, 6)
    ]
    assert judge(folded(*looks), Analysis()).verdict is Verdict.WORSE


def test_overload_of_both_is_no_evidence() -> None:
    looks = [
        {"a": gateway(101.0, old=counted(20 * n, overloaded=10 * n), new=counted(2 * n, overloaded=2 * n))}
        for n in range(1, 40)
    ]
    assert judge(folded(*looks), Analysis()).verdict is not Verdict.WORSE


def test_a_candidate_that_refuses_clients_is_worse_by_a_reason_of_its_own() -> None:
    looks = [
        {"a": gateway(101.0, old=counted(20 * n, ok=20 * n), new=counted(2 * n, client_error=2 * n))}
        for n in range(1, 8)
    ]
    judged = judge(folded(*looks), Analysis())
    assert (judged.verdict, judged.reason) == (Verdict.WORSE, "RefusesMoreRequests")


def test_the_ceiling_works_without_traffic_to_stable_and_not_while_stable_is_above_it() -> None:
    limit = Analysis(error_rate=ErrorRate(max_percent=5))
    alone = [{"a": gateway(101.0, new=counted(2 * n, timeout=2 * n))} for n in range(1, 8)]
    assert judge(folded(*alone, analysis=limit), limit).reason == "AboveCeiling"
    both = [
        {"a": gateway(101.0, old=counted(20 * n, timeout=10 * n), new=counted(2 * n, timeout=n))} for n in range(1, 30)
    ]
    assert judge(folded(*both, analysis=limit), limit).verdict is not Verdict.WORSE


def test_stable_that_fails_more_than_half_is_unhealthy_and_heals() -> None:
    sick = [{"a": gateway(101.0, old=counted(20 * n, timeout=20 * n))} for n in range(1, 4)]
    evidence = folded(*sick)
    assert evidence.stable_unhealthy
    healed = accumulate(
        evidence, {"a": gateway(101.0, old=counted(160, timeout=60, ok=100))}, UID, ARMS, Analysis(), NOW
    )
    assert not healed.stable_unhealthy


def test_evidence_survives_the_status() -> None:
    looks = [
        {"a": gateway(101.0, old=counted(20 * n, ok=19 * n, timeout=n), new=counted(2 * n, ok=2 * n))}
        for n in range(1, 9)
    ]
    evidence = folded(*looks)
    assert from_dict(to_dict(evidence), Evidence) == evidence


def test_the_ceiling_counts_failures_that_arrive_after_their_starts() -> None:
    limit = Analysis(error_rate=ErrorRate(max_percent=5))
    looks = []
    for n in range(1, 20):
        looks.append({"a": gateway(101.0, new=counted(2 * n, timeout=2 * n - 2))})
        looks.append({"a": gateway(101.0, new=counted(2 * n, timeout=2 * n))})
    assert judge(folded(*looks, analysis=limit), limit).reason == "AboveCeiling"
