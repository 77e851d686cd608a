"""What one draw table, or a total of tables of the same weight, says of one stream: the input of every test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Draws:
    """Requests that were drawn with one weight, and how many of them went bad. Bad answers never exceed requests.

    `weight` is the candidate's share of the draw, a fraction; at 0 and 1 nothing was drawn and nothing can be learnt.
    """

    weight: float
    stable_requests: int
    candidate_requests: int
    stable_bad: int
    candidate_bad: int

    @property
    def drawn(self) -> bool:
        """True when each request could have gone to either revision."""
        return 0.0 < self.weight < 1.0

    def exchanged(self) -> Draws:
        """The same draws with the roles exchanged: is stable the worse one?"""
        return Draws(
            1.0 - self.weight,
            self.candidate_requests,
            self.stable_requests,
            self.candidate_bad,
            self.stable_bad,
        )


def log_sum(terms: Sequence[float]) -> float:
    """log of a sum, from the logs of its terms; -inf for nothing."""
    largest = max(terms, default=-math.inf)
    if largest == -math.inf:
        return largest
    return largest + math.log(sum(math.exp(term - largest) for term in terms))


def rejects(log_e: float, alpha: float) -> bool:
    """True when E has reached 1/alpha."""
    return log_e >= -math.log(alpha)
