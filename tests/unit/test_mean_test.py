"""The test of what answers cost: a table's bet is fair for every way in which the draw could have fallen."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from dspy_operator.domain.analysis.draws import rejects
from dspy_operator.domain.analysis.mean_test import SHARES, Bets, Spent, added, bets, log_e


@pytest.mark.parametrize("costs", [(1, 1, 1, 1), (0, 0, 1, 90), (5, 10, 20, 40), (0, 0, 0, 7)])
@pytest.mark.parametrize("of_candidate", [1, 2, 3])
def test_a_bet_is_fair_over_all_draws(costs: tuple[int, ...], of_candidate: int) -> None:
    """Equal versions: whose an answer is was drawn, so every choice of the candidate's is as likely."""
    factors = []
    for chosen in itertools.combinations(range(len(costs)), of_candidate):
        candidate = sum(costs[each] for each in chosen)
        stable = sum(costs) - candidate
        factors.append(bets(Spent(len(costs) - of_candidate, of_candidate, stable, candidate), 0.0))
    for share in range(len(SHARES)):
        assert sum(math.exp(each[share]) for each in factors) / len(factors) == pytest.approx(1.0)


def test_nothing_is_bet_on_nothing() -> None:
    assert bets(Spent(0, 5, 0, 7), 0.1) == bets(Spent(5, 5, 0, 0), 0.1) == ()
    assert log_e(()) == 0.0
    one = bets(Spent(5, 5, 10, 90), 0.1)
    assert added((), one) == added(one, ()) == one


@pytest.mark.parametrize(("times", "found"), [(1.0, False), (1.1, False), (2.0, True)])
def test_a_candidate_that_costs_more_than_tolerated_is_found(times: float, found: bool) -> None:
    chance, sums, seen = random.Random(3), Bets(), False
    for _ in range(100):
        cost = [chance.lognormvariate(6, 0.7) for _ in range(200)]
        stable, candidate = sum(cost[20:]), sum(cost[:20]) * times
        sums = added(sums, bets(Spent(180, 20, round(stable), round(candidate)), 0.1))
        seen = seen or rejects(log_e(sums), 0.001 * 0.05)
    assert seen is found
