"""Does the candidate cost more? A test of means, from the sums of draw tables.

Under the null what the candidate's answers cost is at most (1 + tolerance) times what stable's would. Of all that was
spent under one table, stable's raised by the tolerance, the candidate's share is then on average no more than its share
of the requests, for the draw decided whose is which. Bets on "it is more" multiply over settled tables, in their order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dspy_operator.domain.analysis.draws import log_sum

SHARES = (0.03, 0.1, 0.25, 0.5, 0.75, 0.95)
"""Of what may be bet at most; all at once."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What the requests of one draw table cost."""

    stable_requests: int
    candidate_requests: int
    stable: int
    candidate: int


Bets = tuple[float, ...]
"""The log of what each share of SHARES became; sums over tables. Empty for nothing."""


def bets(spent: Spent, tolerance: float) -> Bets:
    """What one settled table does to them."""
    if not (spent.stable_requests and spent.candidate_requests and spent.stable + spent.candidate):
        return ()
    share = spent.candidate / (spent.candidate + (1 + tolerance) * spent.stable)
    more = share * (spent.stable_requests + spent.candidate_requests) / spent.candidate_requests - 1
    return tuple(math.log1p(each * more) for each in SHARES)


def added(left: Bets, right: Bets) -> Bets:
    """Both, one after the other."""
    return tuple(a + b for a, b in zip(left, right, strict=True)) if left and right else left or right


def log_e(sums: Bets) -> float:
    """log E."""
    return log_sum(sums) - math.log(len(SHARES)) if sums else 0.0
