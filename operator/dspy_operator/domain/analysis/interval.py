"""By how much do the two differ? An interval that may be watched all the time.

Users (or requests) are drawn with a known weight w; Z = bad * (1/w if the candidate's, else -1/(1-w)) has the
difference of the two shares of bad ones as its mean, whatever they are. Against each difference d a bet is kept, from
above and from below: where its capital reaches 2/alpha, d is outside (Waudby-Smith and Ramdas 2024). The chance that
the interval ever leaves the true difference out is at most alpha.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from dspy_operator.domain.analysis.draws import Draws, log_sum
from dspy_operator.domain.analysis.verdict import Side, sides_of

SHARES = tuple(2.0**-power for power in range(1, 11))
"""Of what may be bet at most; all at once, for nobody knows the best one."""

BISECTIONS = 20
"""To a millionth."""


@dataclass(frozen=True, slots=True)
class Interval:
    """The candidate's share of bad ones less stable's, as fractions: what was seen, and from where to where it may lie.
    Below 0 the candidate is better."""

    seen: float
    low: float
    high: float


@lru_cache(maxsize=1024)
def difference(draws: tuple[Draws, ...], alpha: float) -> Interval:
    """The interval at 1 - alpha; from -1 to 1 while nothing is known."""
    drawn = [each for each in draws if each.drawn]
    needed = math.log(2 / alpha)
    low = _edge(lambda d: _log_above(drawn, d) >= needed)
    high = -_edge(lambda d: _log_below(drawn, -d) >= needed)
    stable, candidate = sides_of(drawn)
    return Interval(_share(candidate) - _share(stable), low, high)


def _share(side: Side) -> float:
    return side.bad / side.requests if side.requests else 0.0


def _edge(is_outside: Callable[[float], bool]) -> float:
    """The greatest difference that is outside, if all smaller ones are; -1 for none."""
    low, high = -1.0, 1.0
    if not is_outside(low):
        return -1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_outside(middle) else (low, middle)
    return low


def _log_above(draws: Sequence[Draws], d: float) -> float:
    """log of the capital of bets that the difference is greater than d."""
    return _mean([sum(_bet(each, share / (1 / (1 - each.weight) + 1), d) for each in draws) for share in SHARES])


def _log_below(draws: Sequence[Draws], d: float) -> float:
    """log of the capital of bets that the difference is less than d: the same with the roles exchanged."""
    exchanged = [each.exchanged() for each in draws]
    return _mean([sum(_bet(each, share / (1 / (1 - each.weight) + 1), -d) for each in exchanged) for share in SHARES])


def _bet(draws: Draws, stake: float, d: float) -> float:
    """log of what a stake on every draw has become."""
    bad = draws.candidate_bad + draws.stable_bad
    good = draws.stable_requests + draws.candidate_requests - bad
    return (
        good * _log(1 - stake * d)
        + draws.candidate_bad * _log(1 + stake * (1 / draws.weight - d))
        + draws.stable_bad * _log(1 - stake * (1 / (1 - draws.weight) + d))
    )


def _log(factor: float) -> float:
    return math.log(max(factor, 1e-300))


def _mean(logs: Sequence[float]) -> float:
    return log_sum(logs) - math.log(len(logs))
