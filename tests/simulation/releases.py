"""One release reduced to its requests: how many candidate requests until the judgement speaks."""

from __future__ import annotations

import random

from dspy_operator.domain.analysis.sequential import Arm, DegradationTest, NonInferiorityTest, rejects

BLOCK_REQUESTS = 10


def requests_until_worse(
    chance: random.Random, stable: float, candidate: float, weight: float, alpha: float, most: int
) -> int | None:
    """Candidate requests until it is found worse; None when it never is within `most`."""
    process, left, right, seen = DegradationTest(), Arm(), Arm(), 0
    while seen < most:
        left, right = left + (drawn := _block(chance, stable, candidate, weight))[0], right + drawn[1]
        if left.requests and right.requests:
            process, seen = process.after(left, right), seen + right.requests
            left, right = Arm(), Arm()
            if rejects(process.log_e, alpha):
                return seen
    return None


def requests_until_no_worse(
    chance: random.Random, stable: float, candidate: float, margin: float, weight: float, most: int
) -> int | None:
    """Candidate requests until it is found no worse at alpha 5 %; None when it never is within `most`."""
    process, left, right, seen = NonInferiorityTest(), Arm(), Arm(), 0
    while seen < most:
        left, right = left + (drawn := _block(chance, stable, candidate, weight))[0], right + drawn[1]
        if left.requests and right.requests:
            process, seen = process.after(left, right, margin), seen + right.requests
            left, right = Arm(), Arm()
            if rejects(process.log_e, 0.05):
                return seen
    return None


def _block(chance: random.Random, stable: float, candidate: float, weight: float) -> tuple[Arm, Arm]:
    """A second of traffic, each request assigned at random."""
    to_candidate = sum(chance.random() < weight for _ in range(BLOCK_REQUESTS))
    to_stable = BLOCK_REQUESTS - to_candidate
    return (
        Arm(to_stable, sum(chance.random() < stable for _ in range(to_stable))),
        Arm(to_candidate, sum(chance.random() < candidate for _ in range(to_candidate))),
    )
