"""One release reduced to its draws: how many candidate requests until the judgement speaks.

Nothing is decided between two bad answers of the candidate, so what lies between them is drawn at once: ten thousand
releases take seconds.
"""

from __future__ import annotations

import math

import numpy as np

from dspy_operator.domain.analysis import label_test, mean_test, no_worse
from dspy_operator.domain.analysis.draws import Draws, rejects
from dspy_operator.domain.analysis.streams import FAILED, SPENDS, Stream

TABLE_REQUESTS = 200


def until_lowered(
    chance: np.random.Generator,
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
    event = weight * candidate
    others = np.array([(1 - weight) * (1 - stable), weight * (1 - candidate), (1 - weight) * stable])
    while event:
        good, drawn, bad = chance.multinomial(chance.geometric(event) - 1, others / others.sum())
        if counts[1] + drawn + 1 > most:
            break
        counts = [counts[0] + int(good + bad), counts[1] + int(drawn) + 1, counts[2] + int(bad), counts[3] + 1]
        if counts[0] + counts[1] >= least:
            log_e = math.log(stream.share) + label_test.log_e([Draws(weight, *counts)], stream.tolerance)
            if rejects(log_e, alpha):
                return counts[1], counts[3]
    return most, counts[3]


def until_no_worse(
    chance: np.random.Generator, stable: float, candidate: float, margin: float, most: int, weight: float = 0.05
) -> int:
    """Candidate requests until it is shown no worse; `most` when it never is. Tables have 200 requests."""
    totals: list[Draws] = []
    seen = 0
    while seen < most:
        drawn = int(chance.binomial(TABLE_REQUESTS, weight))
        others = TABLE_REQUESTS - drawn
        bad = [int(chance.binomial(others, stable)), int(chance.binomial(drawn, candidate))]
        totals.append(Draws(weight, others, drawn, *bad))
        seen += drawn
        if rejects(no_worse.log_e(totals, margin), no_worse.ALPHA):
            return seen
    return most


def until_too_dear(chance: np.random.Generator, times: float, weight: float, most: int, alpha: float = 0.001) -> int:
    """Candidate requests until it is lowered by what its answers cost, so many times stable's; `most` when it never is.
    Tables have 200 requests."""
    sums: mean_test.Bets = ()
    seen = 0
    while seen < most:
        drawn = int(chance.binomial(TABLE_REQUESTS, weight))
        others = TABLE_REQUESTS - drawn
        spent = [_tokens(chance, others), _tokens(chance, drawn, times)]
        seen += drawn
        sums = mean_test.added(sums, mean_test.bets(mean_test.Spent(others, drawn, *spent), SPENDS.tolerance))
        if rejects(math.log(SPENDS.share) + mean_test.log_e(sums), alpha):
            return seen
    return most


def _tokens(chance: np.random.Generator, answers: int, times: float = 1.0) -> int:
    return int(np.rint(chance.lognormal(6, 0.7, answers) * times).sum())
