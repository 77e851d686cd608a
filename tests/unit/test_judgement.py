"""The heart of the project: no block may expect to win under its null hypothesis, and bad candidates are found."""

from __future__ import annotations

import math
import random
from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dspy_operator.domain.analysis.sequential import (
    Arm,
    DegradationTest,
    NonInferiorityTest,
    Rate,
    combined_log_e,
    rejects,
)

ROUNDING = 1e-9


def binomial(requests: int, bad: int, rate: float) -> float:
    return math.comb(requests, bad) * rate**bad * (1 - rate) ** (requests - bad)


def outcomes(requests: int) -> list[Arm]:
    return [Arm(requests, bad) for bad in range(requests + 1)]


rates = st.floats(0.0, 0.999)
small = st.integers(1, 6)
histories = st.tuples(st.integers(0, 3000), st.floats(0, 1), st.integers(0, 300), st.floats(0, 1))


def stable_rate(requests: int, share: float) -> Rate:
    return Rate().after(Arm(requests, int(requests * share)))


@settings(max_examples=400, deadline=None)
@given(small, small, rates, st.floats(0, 1), st.sampled_from([0.0, 0.005, 0.02, 0.1]), histories)
def test_a_block_of_worse_never_expects_to_win_while_the_candidate_is_no_worse(
    stable_requests: int,
    candidate_requests: int,
    rate: float,
    share: float,
    tolerance: float,
    history: tuple[int, float, int, float],
) -> None:
    before = DegradationTest(stable=stable_rate(*history[:2]), requests=history[2])
    candidate_rate = min(share * (rate + tolerance), 1.0)
    expected = sum(
        binomial(stable_requests, stable.bad, rate)
        * binomial(candidate_requests, candidate.bad, candidate_rate)
        * math.exp(before.after(stable, candidate, tolerance).log_e - before.log_e)
        for stable, candidate in product(outcomes(stable_requests), outcomes(candidate_requests))
    )
    assert expected <= 1 + ROUNDING


@settings(max_examples=400, deadline=None)
@example(1, 1, 1.0, 0.0, 0.1, (0, 0.0, 2, 1.0))
@given(small, small, st.floats(0, 1), st.floats(0, 1), st.sampled_from([0.005, 0.02, 0.1]), histories)
def test_a_block_of_no_worse_never_expects_to_win_while_the_candidate_is_worse_by_the_margin(
    stable_requests: int,
    candidate_requests: int,
    share: float,
    beyond: float,
    margin: float,
    history: tuple[int, float, int, float],
) -> None:
    past = Arm(history[2], int(history[2] * history[3]))
    before = NonInferiorityTest(
        stable=stable_rate(*history[:2]), candidate=past, pooled=stable_rate(*history[:2]).after(past)
    )
    rate = share * (1 - margin)
    candidate_rate = rate + margin + beyond * (1 - margin - rate)
    expected = sum(
        binomial(stable_requests, stable.bad, rate)
        * binomial(candidate_requests, candidate.bad, candidate_rate)
        * math.exp(before.after(stable, candidate, margin).log_e - before.log_e)
        for stable, candidate in product(outcomes(stable_requests), outcomes(candidate_requests))
    )
    assert expected <= 1 + ROUNDING


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 12), st.floats(0.001, 0.9), st.floats(0, 1))
def test_the_ceiling_never_expects_to_win_below_its_limit(requests: int, limit: float, share: float) -> None:
    expected = sum(
        binomial(requests, candidate.bad, limit * share)
        * math.exp(DegradationTest().after_alone(candidate, limit).log_e)
        for candidate in outcomes(requests)
    )
    assert expected <= 1 + ROUNDING


def test_processes_start_at_one() -> None:
    assert DegradationTest().log_e == pytest.approx(0.0)
    assert NonInferiorityTest().log_e == pytest.approx(0.0)
    assert combined_log_e([(0.6, 0.0), (0.4, 0.0)]) == pytest.approx(0.0)


def test_a_candidate_that_always_fails_is_found_after_a_few_requests() -> None:
    process, blocks = DegradationTest(), 0
    while not rejects(process.log_e, alpha=0.001):
        process, blocks = process.after(Arm(19, 0), Arm(1, 1)), blocks + 1
    assert blocks <= 4


def test_a_candidate_that_turns_bad_after_thousands_of_good_requests_is_still_found_soon() -> None:
    process, blocks = DegradationTest(), 0
    for _ in range(3000):
        process = process.after(Arm(19, 0), Arm(1, 0))
    while not rejects(process.log_e, alpha=0.001):
        process, blocks = process.after(Arm(19, 0), Arm(1, 1)), blocks + 1
    assert blocks <= 12


def test_an_outage_that_hits_both_arms_is_no_evidence() -> None:
    process = DegradationTest()
    for _ in range(200):
        process = process.after(Arm(19, 1), Arm(1, 0))
    for _ in range(200):
        process = process.after(Arm(10, 10), Arm(10, 10))
    assert not rejects(process.log_e, alpha=0.001)


def test_a_healthy_candidate_is_found_no_worse() -> None:
    process, requests = NonInferiorityTest(), 0
    while not rejects(process.log_e, alpha=0.05):
        process, requests = process.after(Arm(19, 0), Arm(1, 0), margin=0.02), requests + 1
    assert 140 <= requests <= 160


def test_more_answers_than_starts_in_a_block_count_as_all_bad_and_never_overflow() -> None:
    process = DegradationTest().after(Arm(5, 0), Arm(1, 4))
    assert math.isfinite(process.log_e)


@pytest.mark.parametrize("weight", [0.01, 0.1, 0.5])
def test_a_healthy_candidate_is_not_rolled_back_under_continuous_peeking(weight: float) -> None:
    chance = random.Random(7)
    rolled_back = sum(
        release_rolls_back(chance, weight, 0.01, 0.01, alpha=0.01, candidate_requests=1_000) for _ in range(60)
    )
    assert rolled_back <= 3


def release_rolls_back(
    chance: random.Random, weight: float, stable: float, candidate: float, alpha: float, candidate_requests: int
) -> bool:
    process, left, right = DegradationTest(), Arm(), Arm()
    seen = 0
    while seen < candidate_requests:
        for _ in range(20):
            if chance.random() < weight:
                right, seen = right + Arm(1, chance.random() < candidate), seen + 1
            else:
                left += Arm(1, chance.random() < stable)
        if left.requests and right.requests:
            process, left, right = process.after(left, right), Arm(), Arm()
            if rejects(process.log_e, alpha):
                return True
    return False
