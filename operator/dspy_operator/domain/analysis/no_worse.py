"""Is the candidate no worse? A bet on the draws, against "it is bad at least `margin` more often than stable".

For a request drawn with weight w let Z = 1/w if the candidate's answer is bad, -1/(1-w) if stable's is, else 0: its
mean is the difference of the rates, whatever they do in time and however weights change. The wealth of a gambler who
stakes a share f against Z is a non-negative supermartingale while the difference is at least the margin (betting:
Waudby-Smith and Ramdas 2024). Only totals whose every request is answered may come in, in the order in which they
opened: an order fixed beforehand chooses nothing by outcome.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from dspy_operator.domain.analysis.draws import Draws, log_sum

STAKES = (0.15, 0.4, 0.7, 0.99)
PRIOR = (0.15, 0.15, 0.2, 0.5)
ALPHA = 0.05
"""Chance that a candidate exactly `margin` worse is ever shown to be no worse."""


def log_e(totals: Sequence[Draws], margin: float) -> float:
    """log E of answered totals in their order. `margin` is a fraction above 0."""
    drawn = [total for total in totals if total.drawn]
    return log_sum(
        [
            math.log(prior) + sum(_log_wealth(total, stake, margin) for total in drawn)
            for prior, stake in zip(PRIOR, STAKES, strict=True)
        ]
    )


def _log_wealth(draws: Draws, stake: float, margin: float) -> float:
    """log of what one total multiplies the wealth by."""
    weight = draws.weight
    share = stake / (1 / weight - margin)
    good = draws.stable_requests + draws.candidate_requests - draws.stable_bad - draws.candidate_bad
    return (
        good * math.log1p(share * margin)
        + draws.candidate_bad * math.log1p(share * (margin - 1 / weight))
        + draws.stable_bad * math.log1p(share * (margin + 1 / (1 - weight)))
    )
