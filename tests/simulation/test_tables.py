"""The published tables of the judgement, reproduced by the code that ships, with fewer runs than `make bench`."""

from __future__ import annotations

import random
from statistics import median

import pytest

from tests.simulation.releases import requests_until_no_worse, requests_until_worse

RUNS = 60


@pytest.mark.parametrize(
    ("stable", "candidate", "published"),
    [
        (0.0, 0.05, 66),
        (0.0, 0.2, 17),
        (0.0, 1.0, 3),
        (0.01, 0.1, 86),
        (0.01, 0.2, 32),
        (0.01, 1.0, 3),
        (0.05, 0.5, 17),
        (0.05, 1.0, 5),
    ],
)
def test_a_worse_candidate_is_found_as_soon_as_published(stable: float, candidate: float, published: int) -> None:
    chance = random.Random(f"{stable} {candidate}")
    found = [requests_until_worse(chance, stable, candidate, 0.05, 0.001, 5_000) or 5_000 for _ in range(RUNS)]
    assert median(found) == pytest.approx(published, rel=0.35, abs=1.5)


@pytest.mark.parametrize(
    ("stable", "margin", "published"),
    [(0.0, 0.01, 300), (0.0, 0.02, 150), (0.0, 0.05, 59), (0.001, 0.02, 150), (0.01, 0.05, 60)],
)
def test_a_healthy_candidate_is_found_no_worse_as_soon_as_published(
    stable: float, margin: float, published: int
) -> None:
    chance = random.Random(f"{stable} {margin}")
    found = [requests_until_no_worse(chance, stable, stable, margin, 0.05, 20_000) or 20_000 for _ in range(RUNS)]
    assert median(found) == pytest.approx(published, rel=0.25)


@pytest.mark.parametrize("weight", [0.05, 0.5])
def test_healthy_candidates_are_rolled_back_at_most_as_often_as_alpha_says(weight: float) -> None:
    chance = random.Random(3)
    rolled_back = sum(requests_until_worse(chance, 0.01, 0.01, weight, 0.05, 1_000) is not None for _ in range(RUNS))
    assert rolled_back <= 8


def test_a_candidate_worse_by_the_margin_is_rarely_promoted() -> None:
    chance = random.Random(4)
    promoted = sum(requests_until_no_worse(chance, 0.01, 0.03, 0.02, 0.05, 1_500) is not None for _ in range(RUNS))
    assert promoted <= 8
