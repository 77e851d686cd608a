"""The interval of a difference of means: it may be looked at all the time, and a few users cannot fool it."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable

import pytest

from dspy_operator.domain.analysis.means import LEAST_USERS, Alike, difference_of_means, means_of, rounded

ALPHA = 0.05
Values = Callable[[random.Random], float]


def even(chance: random.Random) -> float:
    return chance.lognormvariate(6, 0.7)


def rare(chance: random.Random) -> float:
    """One user in 500 takes a hundred times as much."""
    return 10_000.0 if chance.random() < 0.002 else 100.0 + chance.random()


def drawn(chance: random.Random, values: Values, weight: float, users: int, times: float = 1.0) -> list[Alike]:
    """So many users more, as they were drawn."""
    counted: Counter[tuple[bool, float]] = Counter()
    for _ in range(users):
        of_candidate = chance.random() < weight
        counted[of_candidate, rounded(values(chance) * (times if of_candidate else 1.0))] += 1
    return [Alike(side, weight, value, number) for (side, value), number in counted.items()]


@pytest.mark.parametrize(("values", "weight"), [(even, 0.5), (even, 0.1), (rare, 0.5), (rare, 0.1)])
def test_equal_versions_are_hardly_ever_told_apart(values: Values, weight: float) -> None:
    """However often one looks. Without clipping a quarter of the rare ones would be, at a weight of a tenth."""
    chance, wrong = random.Random(2), 0
    for _ in range(30):
        users: list[Alike] = []
        for _ in range(8):
            users += drawn(chance, values, weight, 1_000)
            interval = difference_of_means(tuple(users), ALPHA)
            if interval.low > 0 or interval.high < 0:
                wrong += 1
                break
    assert wrong <= 4, "at most one or two are to be expected"


def test_a_dearer_version_is_told_apart() -> None:
    chance = random.Random(5)
    interval = difference_of_means(tuple(drawn(chance, even, 0.5, 4_000, times=1.2)), ALPHA)
    assert 0 < interval.low < interval.seen < interval.high
    assert interval.low < 0.2 * math.exp(6 + 0.7**2 / 2) < interval.high


def test_nothing_is_said_by_too_few() -> None:
    """However different they are: of a few nobody knows how they are spread."""
    few = tuple(Alike(side, 0.5, 1.0 + side, LEAST_USERS - 1) for side in (False, True))
    assert difference_of_means(few, ALPHA).low == -math.inf
    assert difference_of_means(few, ALPHA).seen == 1.0
    assert difference_of_means((), ALPHA).high == math.inf


def test_users_are_compared_with_those_of_their_own_weight() -> None:
    """Those who came in the morning spend more, whoever answers: a share that has changed since must not make that a
    difference between the versions."""
    morning, evening = 0.1, 0.5
    users = [
        Alike(side, weight, value + spread, round(3_000 * (weight if side else 1 - weight)))
        for weight, value in ((morning, 100.0), (evening, 50.0))
        for side in (False, True)
        for spread in (-1.0, 0.0, 1.0)
    ]
    stable, candidate = means_of(tuple(users))
    assert stable.mean - candidate.mean > 10, "so it looks"
    interval = difference_of_means(tuple(users), ALPHA)
    assert interval.low < -0.001 < interval.seen < 0.001 < interval.high


def test_the_ends_are_clipped() -> None:
    """As far as the hundredth of all users on either side."""
    far = [Alike(True, 0.5, 1_000.0, 1), Alike(False, 0.5, -1_000.0, 1)]
    assert [each.mean for each in means_of((Alike(True, 0.5, 1.0, 96), *far))] == [-1_000.0, pytest.approx(1_096 / 97)]
    assert [each.mean for each in means_of((Alike(True, 0.5, 1.0, 98), *far))] == [1.0, 1.0]
