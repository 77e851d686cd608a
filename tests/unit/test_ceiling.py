"""The ceiling that stable sets for a candidate with nearly all of the traffic."""

from __future__ import annotations

import math

import pytest

from dspy_operator.domain.analysis.ceiling import upper_bound


def at_most(bad: int, requests: int, share: float) -> float:
    """The chance of so few bad answers, or fewer."""
    return sum(math.comb(requests, k) * share**k * (1 - share) ** (requests - k) for k in range(bad + 1))


@pytest.mark.parametrize("requests", [1, 2, 5, 26, 100, 400])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 0.9])
def test_the_bound_is_exceeded_by_one_in_a_hundred_at_most(requests: int, share: float) -> None:
    bad = int(requests * share)
    bound = upper_bound(requests, bad)
    assert bad / requests < bound <= 1.0
    assert at_most(bad, requests, bound) <= 0.01 + 1e-9


def test_without_requests_nothing_is_bounded_and_with_many_the_bound_is_close() -> None:
    assert upper_bound(0, 0) == 1.0
    assert upper_bound(5, 5) == 1.0
    assert upper_bound(26, 0) == pytest.approx(1 - 0.01 ** (1 / 26))
    assert upper_bound(100_000, 1_000) == pytest.approx(0.01, abs=0.001)
