"""The heart of the guard, by enumeration: no factor expects to win under its null; and tables that were published."""

from __future__ import annotations

import math
from statistics import median

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dev.draws import until_lowered, until_no_worse
from dspy_operator.domain.analysis import ceiling, label_test, no_worse
from dspy_operator.domain.analysis.draws import Draws

shares = st.floats(0.001, 0.999)


def one_draw(weight: float, stable: float, candidate: float) -> list[tuple[float, Draws]]:
    """The four things that one request can become, with their chances."""
    return [
        ((1 - weight) * (1 - stable), Draws(weight, 1, 0, 0, 0)),
        ((1 - weight) * stable, Draws(weight, 1, 0, 1, 0)),
        (weight * (1 - candidate), Draws(weight, 0, 1, 0, 0)),
        (weight * candidate, Draws(weight, 0, 1, 0, 1)),
    ]


@settings(max_examples=300, deadline=None)
@given(weight=shares, stable=st.floats(0, 1), share=st.floats(0, 1), tolerance=st.sampled_from([0.0, 0.001, 0.005]))
def test_no_draw_expects_to_win_while_the_candidate_is_no_worse(
    weight: float, stable: float, share: float, tolerance: float
) -> None:
    candidate = share * (stable + tolerance * (1 - stable))
    mean = sum(
        chance * math.exp(label_test.log_e([draws], tolerance)) for chance, draws in one_draw(weight, stable, candidate)
    )
    assert mean <= 1 + 1e-9


@settings(max_examples=300, deadline=None)
@given(
    copied=st.floats(0.0001, 1),
    stable=st.floats(0, 1),
    share=st.floats(0, 1),
    paired=st.floats(0, 1),
    tolerance=st.sampled_from([0.0, 0.001, 0.005]),
)
def test_no_copy_expects_to_win_however_often_both_fail_for_one_reason(
    copied: float, stable: float, share: float, paired: float, tolerance: float
) -> None:
    """A request to stable, and with a chance its copy, are never independent: both meet the same input and provider."""
    candidate = share * (stable + tolerance * (1 - stable))
    fewest, most = max(0.0, stable + candidate - 1), min(stable, candidate)
    both = fewest + paired * (most - fewest)
    weight = copied / (1 + copied)
    alone = [(1 - stable, 0), (stable, 1)]
    pairs = [(1 - stable - candidate + both, 0, 0), (stable - both, 1, 0), (candidate - both, 0, 1), (both, 1, 1)]
    outcomes = [(chance * (1 - copied), Draws(weight, 1, 0, bad, 0)) for chance, bad in alone]
    outcomes += [(chance * copied, Draws(weight, 1, 1, bad, copy)) for chance, bad, copy in pairs]
    mean = sum(chance * math.exp(label_test.log_e([draws], tolerance)) for chance, draws in outcomes)
    assert mean <= 1 + 1e-9


@settings(max_examples=300, deadline=None)
@given(weight=shares, margin=st.sampled_from([0.005, 0.01, 0.02, 0.05]), share=st.floats(0, 1), beyond=st.floats(0, 1))
def test_no_draw_expects_to_win_while_the_candidate_is_worse_by_the_margin(
    weight: float, margin: float, share: float, beyond: float
) -> None:
    stable = share * (1 - margin)
    candidate = stable + margin + beyond * (1 - margin - stable)
    mean = sum(
        chance * math.exp(no_worse.log_e([draws], margin)) for chance, draws in one_draw(weight, stable, candidate)
    )
    assert mean <= 1 + 1e-9
    if beyond == 0.0:
        assert mean == pytest.approx(1.0)


@settings(max_examples=200, deadline=None)
@given(limit=st.floats(0.01, 0.9), share=st.floats(0, 1))
def test_the_ceiling_never_expects_to_win_below_its_limit(limit: float, share: float) -> None:
    rate = limit * share
    mean = rate * math.exp(ceiling.log_e(1, 1, limit)) + (1 - rate) * math.exp(ceiling.log_e(1, 0, limit))
    assert mean <= 1 + 1e-9


def test_totals_that_drew_nothing_say_nothing() -> None:
    assert label_test.log_e([Draws(1.0, 0, 100, 0, 100), Draws(0.0, 100, 0, 100, 0)]) == 0.0


def test_the_beginnings_and_the_reserve_sum_to_one() -> None:
    nothing_bad = [Draws(0.1, 0, 1, 0, 0)] * 7
    assert label_test.log_e(nothing_bad) == pytest.approx(0.0)


def test_a_late_change_is_found_sooner_with_more_totals() -> None:
    good = [Draws(0.1, 900, 100, 9, 1) for _ in range(10)]
    turned = Draws(0.1, 180, 20, 2, 10)
    together = Draws(0.1, 9_180, 1_020, 92, 20)
    assert label_test.log_e([*good, turned]) > label_test.log_e([together]) + 2


@pytest.mark.parametrize(
    ("stable", "candidate", "published"),
    [(0.001, 0.2, 14), (0.001, 1.0, 3), (0.01, 0.1, 66), (0.01, 0.2, 24), (0.01, 1.0, 3), (0.05, 0.5, 14)],
)
def test_a_worse_candidate_is_found_as_soon_as_published(stable: float, candidate: float, published: int) -> None:
    chance = np.random.default_rng(1)
    found = [until_lowered(chance, stable, candidate, 0.05, 5_000)[0] for _ in range(600)]
    assert median(found) == pytest.approx(published, rel=0.5, abs=2)


def test_healthy_candidates_are_lowered_at_most_as_often_as_alpha_says() -> None:
    chance = np.random.default_rng(3)
    assert sum(until_lowered(chance, 0.05, 0.05, 0.05, 1_000)[0] < 1_000 for _ in range(60)) <= 1


@pytest.mark.parametrize(("stable", "margin", "published"), [(0.0, 0.01, 354), (0.0, 0.05, 70), (0.01, 0.02, 348)])
def test_a_healthy_candidate_is_shown_no_worse_as_soon_as_published(
    stable: float, margin: float, published: int
) -> None:
    chance = np.random.default_rng(1)
    found = [until_no_worse(chance, stable, stable, margin, 5_000) for _ in range(400)]
    assert median(found) == pytest.approx(published, rel=0.25)


def test_a_candidate_worse_by_the_margin_is_rarely_promoted() -> None:
    chance = np.random.default_rng(4)
    assert sum(until_no_worse(chance, 0.01, 0.03, 0.02, 1_500) < 1_500 for _ in range(40)) <= 6
