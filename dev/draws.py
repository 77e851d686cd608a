"""One release reduced to its draws: how many candidate requests until the judgement speaks."""

from __future__ import annotations

import math
import random

from dspy_operator.domain.analysis import label_test, mean_test, no_worse
from dspy_operator.domain.analysis.draws import Draws, rejects
from dspy_operator.domain.analysis.streams import FAILED, SPENDS, Stream

TABLE_REQUESTS = 200


def until_lowered(
    chance: random.Random,
    stable: float,
    candidate: float,
    weight: float,
    most: int,
    alpha: float = 0.001,
    stream: Stream = FAILED,
    least: int = 0,
) -> tuple[int, int]:
    """Candidate requests, and bad ones among them, until the candidate is lowered by one stream; `most` when it never
    is. Of both sides there must be `least`."""
    counts = [0, 0, 0, 0]
    while counts[1] < most:
        drawn = chance.random() < weight
        bad = chance.random() < (candidate if drawn else stable)
        counts[drawn] += 1
        counts[2 + drawn] += bad
        if bad and drawn and counts[0] + counts[1] >= least:
            log_e = math.log(stream.share) + label_test.log_e([Draws(weight, *counts)], stream.tolerance)
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


def until_too_dear(chance: random.Random, times: float, weight: float, most: int, alpha: float = 0.001) -> int:
    """Candidate requests until it is lowered by what its answers cost, so many times stable's; `most` when it never is.
    Tables have 200 requests."""
    sums: mean_test.Bets = ()
    seen = 0
    while seen < most:
        spent = [0, 0, 0, 0]
        for _ in range(TABLE_REQUESTS):
            drawn = chance.random() < weight
            spent[drawn] += 1
            spent[2 + drawn] += round(chance.lognormvariate(6, 0.7) * (times if drawn else 1))
        seen += spent[1]
        sums = mean_test.added(sums, mean_test.bets(mean_test.Spent(*spent), SPENDS.tolerance))
        if rejects(math.log(SPENDS.share) + mean_test.log_e(sums), alpha):
            return seen
    return most
