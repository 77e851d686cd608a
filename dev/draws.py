"""One release reduced to its draws: how many candidate requests until the judgement speaks."""

from __future__ import annotations

import math
import random

from dspy_operator.domain.analysis import label_test, no_worse
from dspy_operator.domain.analysis.draws import Draws, rejects
from dspy_operator.domain.analysis.streams import FAILED

TABLE_REQUESTS = 200


def until_lowered(
    chance: random.Random, stable: float, candidate: float, weight: float, most: int, alpha: float = 0.001
) -> tuple[int, int]:
    """Candidate requests, and bad ones among them, until the candidate is lowered; `most` when it never is."""
    counts = [0, 0, 0, 0]
    while counts[1] < most:
        drawn = chance.random() < weight
        bad = chance.random() < (candidate if drawn else stable)
        counts[drawn] += 1
        counts[2 + drawn] += bad
        if bad and drawn:
            log_e = math.log(FAILED.share) + label_test.log_e([Draws(weight, *counts)], FAILED.tolerance)
            if rejects(log_e, alpha):
                break
    return counts[1], counts[3]


def until_no_worse(
    chance: random.Random, stable: float, candidate: float, margin: float, most: int, weight: float = 0.05
) -> int:
    """Candidate requests until it is shown no worse; `most` when it never is. Tables have 200 requests."""
    totals: list[Draws] = []
    seen = 0
    while seen < most:
        counts = [0, 0, 0, 0]
        for _ in range(TABLE_REQUESTS):
            drawn = chance.random() < weight
            counts[drawn] += 1
            counts[2 + drawn] += chance.random() < (candidate if drawn else stable)
        totals.append(Draws(weight, *counts))
        seen += counts[1]
        if rejects(no_worse.log_e(totals, margin), no_worse.ALPHA):
            return seen
    return most
