"""By how much do two means differ? An interval that may be watched all the time.

A user has one value: the mean of what its answers measured. The two sides' means are compared by the mixture of Robbins
for sums that are nearly normal (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2021), its one free number set by
LEAST_USERS on the smaller side, so that it is narrowest at some eight times as many; before LEAST_USERS nothing is
said. Users are compared with those who were drawn with the same weight. A few values that are far from all others
would make that wrong: the hundredth of both sides' users with the greatest values counts as the edge of that
hundredth, and so do the least.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from dspy_contract.routes import COST, MEASURES, SCORE, TOKENS
from dspy_operator.domain.analysis.interval import Interval

LEAST_USERS = 500
"""Of the smaller side."""

CLIPPED = 0.01
DIGITS = 3
"""Of a user's value: those who are alike in these are kept together."""

_WORDS = {TOKENS: "{:.0f} tokens", COST: "${:.3g}", SCORE: "{:.3f}"}


@dataclass(frozen=True, slots=True)
class Alike:
    """Users who were drawn with the candidate's share `weight`, for it or for stable, and have the same value."""

    of_candidate: bool
    weight: float
    value: float
    users: int


@dataclass(frozen=True, slots=True)
class Mean:
    """How many users of one side have a value, and their mean."""

    users: int = 0
    mean: float = 0.0


def is_measure(stream: str) -> bool:
    """Whether it is compared by means, and not by shares of users."""
    return stream in MEASURES


def in_words(measure: str, value: float) -> str:
    """A value with its unit."""
    return _WORDS[measure].format(value)


def rounded(value: float) -> float:
    """A value by its first DIGITS digits."""
    return float(f"{value:.{DIGITS - 1}e}")


@lru_cache(maxsize=16)
def means_of(users: tuple[Alike, ...]) -> tuple[Mean, Mean]:
    """Stable's and the candidate's, clipped: of the weights with enough users, or, while there are none, of all."""
    clipped = _clipped(users)
    enough = [each for part in _by_weight(clipped) if _moments(part) for each in part]
    return _mean(enough or clipped, of_candidate=False), _mean(enough or clipped, of_candidate=True)


@lru_cache(maxsize=16)
def difference_of_means(users: tuple[Alike, ...], alpha: float) -> Interval:
    """The candidate's mean less stable's, and the interval at 1 - alpha; endless while there are too few users."""
    enough = [each for each in map(_moments, _by_weight(_clipped(users))) if each is not None]
    if not enough:
        stable, candidate = means_of(users)
        return Interval(candidate.mean - stable.mean, -math.inf, math.inf)
    users_of = [each.users for each in enough]
    shares = [each / sum(users_of) for each in users_of]
    seen = sum(share * each.difference for share, each in zip(shares, enough, strict=True))
    variance = sum(share**2 * each.variance for share, each in zip(shares, enough, strict=True))
    grown = sum(each.smaller for each in enough) / LEAST_USERS
    radius = math.sqrt(variance * (1 + 1 / grown) * math.log((1 + grown) / alpha**2))
    return Interval(seen, seen - radius, seen + radius)


def _by_weight(users: Sequence[Alike]) -> list[list[Alike]]:
    return [[each for each in users if each.weight == weight] for weight in sorted({each.weight for each in users})]


@dataclass(frozen=True, slots=True)
class _Moments:
    """Of the users of one weight: how many, and on the smaller side; the difference of the means, and its variance."""

    users: int
    smaller: int
    difference: float
    variance: float


def _moments(users: Sequence[Alike]) -> _Moments | None:
    """None while the smaller side is too small."""
    means = [_mean(users, of_candidate=side) for side in (False, True)]
    smaller = min(each.users for each in means)
    if smaller < LEAST_USERS:
        return None
    squares = [
        sum(each.users * (each.value - mean.mean) ** 2 for each in users if each.of_candidate is side)
        for side, mean in zip((False, True), means, strict=True)
    ]
    variance = sum(square / (each.users - 1) / each.users for square, each in zip(squares, means, strict=True))
    return _Moments(sum(each.users for each in means), smaller, means[1].mean - means[0].mean, variance)


def _mean(users: Sequence[Alike], *, of_candidate: bool) -> Mean:
    side = [each for each in users if each.of_candidate is of_candidate]
    number = sum(each.users for each in side)
    return Mean(number, sum(each.users * each.value for each in side) / number) if number else Mean()


def _clipped(users: Sequence[Alike]) -> list[Alike]:
    """With the values at either end as far as that of the hundredth of all users."""
    least = _edge(sorted(users, key=lambda each: each.value))
    most = _edge(sorted(users, key=lambda each: -each.value))
    return [replace(each, value=min(max(each.value, least), most)) for each in users]


def _edge(users: Sequence[Alike]) -> float:
    """The value that the first hundredth of the users has passed."""
    room = CLIPPED * sum(each.users for each in users)
    for each in users:
        room -= each.users
        if room < 0:
            return each.value
    return 0.0
