"""When is a candidate worse than stable, and when is it no worse? Anytime-valid tests on counts of both.

Each test carries an e-process: a number E that starts at 1 and, while its null hypothesis holds, is a non-negative
supermartingale. By Ville's inequality the chance that E ever reaches 1/alpha is then at most alpha, at any look, over
any horizon (Ville 1939; Ramdas, Gruenwald, Vovk and Shafer 2023). A block's e-value is the likelihood ratio of an
alternative against the null point nearest to it (reverse information projection; Turner, Ly and Gruenwald 2024).

The denominator of a block is requests *started*, not completed: a program's errors come in milliseconds and its good
answers in seconds, so among a fresh candidate's first completions nearly all are errors.

Everything is in natural logarithms. Rates and weights are fractions. Nothing here knows of clocks or clusters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

MEMORY_REQUESTS = 5_000.0
PRIOR_BAD, PRIOR_REQUESTS = 0.05, 10.0
LOWEST_RATE, HIGHEST_RATE = 1e-6, 0.999
DISTANCES = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 0.97)
PRIOR = (0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.3)
RESERVE = 0.2
NEWTON_STEPS = 30
FURTHEST_SHARE_OF_MARGIN = 0.9


@dataclass(frozen=True, slots=True)
class Arm:
    """What one revision did in a block: requests started, and bad answers among all that arrived."""

    requests: int = 0
    bad: int = 0

    def __add__(self, other: Arm) -> Arm:
        return Arm(self.requests + other.requests, self.bad + other.bad)


@dataclass(frozen=True, slots=True)
class Rate:
    """A running rate of bad answers: weighted sums over the past, the older the lighter."""

    requests: float = PRIOR_REQUESTS
    bad: float = PRIOR_BAD

    def value(self, highest: float = HIGHEST_RATE) -> float:
        """The rate, kept within [1e-6, highest]."""
        return min(max(self.bad / self.requests, LOWEST_RATE), highest)

    def after(self, arm: Arm) -> Rate:
        """The rate after a block, with a memory of 5,000 requests."""
        keep = math.exp(-arm.requests / MEMORY_REQUESTS)
        return Rate(keep * self.requests + arm.requests, keep * self.bad + arm.bad)


@dataclass(frozen=True, slots=True)
class DegradationTest:
    """The e-process against "the candidate fails at most `tolerance` more often than stable"."""

    stable: Rate = Rate()
    log_reserve: float = math.log(RESERVE)
    log_wealth: tuple[float, ...] = tuple(math.log((1 - RESERVE) * share) for share in PRIOR)
    requests: int = 0

    @property
    def log_e(self) -> float:
        """log E."""
        return _log_sum((self.log_reserve, *self.log_wealth))

    def after(self, stable: Arm, candidate: Arm, tolerance: float = 0.0) -> DegradationTest:
        """The process after a block in which both arms had requests. `tolerance` is a fraction."""
        rate = self.stable.value(HIGHEST_RATE - tolerance)
        floor = rate + tolerance
        e_values = [
            _log_e_value(stable, candidate, rate, floor + distance * (1 - floor), tolerance) for distance in DISTANCES
        ]
        return replace(self._bet(candidate, e_values), stable=self.stable.after(stable))

    def after_alone(self, candidate: Arm, limit: float) -> DegradationTest:
        """The process after a block of the candidate alone, against "it fails at most at the rate `limit`"."""
        e_values = [_log_likelihood_ratio(candidate, limit + distance * (1 - limit), limit) for distance in DISTANCES]
        return self._bet(candidate, e_values)

    def _bet(self, candidate: Arm, log_e_values: Sequence[float]) -> DegradationTest:
        """Invests a share of the cash again, so that a candidate that turns bad late is found soon, then plays the
        block."""
        share = min(0.5, 0.25 * candidate.requests / (self.requests + candidate.requests + 100))
        added = self.log_reserve + math.log(share) if share > 0 else -math.inf
        stakes = tuple(
            _log_sum((stake, added + math.log(prior))) + log_e
            for stake, prior, log_e in zip(self.log_wealth, PRIOR, log_e_values, strict=True)
        )
        cash = self.log_reserve + math.log1p(-share)
        return DegradationTest(self.stable, cash, stakes, self.requests + candidate.requests)


@dataclass(frozen=True, slots=True)
class NonInferiorityTest:
    """The e-process against "the candidate fails at least `margin` more often than stable"."""

    stable: Rate = Rate()
    candidate: Arm = Arm()
    pooled: Rate = Rate()
    log_wealth: tuple[float, float] = (math.log(0.5), math.log(0.5))

    @property
    def log_e(self) -> float:
        """log E."""
        return _log_sum(self.log_wealth)

    def after(self, stable: Arm, candidate: Arm, margin: float) -> NonInferiorityTest:
        """The process after a block in which both arms had requests. `margin` is a fraction above 0."""
        together = self.pooled.value(HIGHEST_RATE - margin)
        rate = self.stable.value(HIGHEST_RATE - margin)
        pseudo_requests = 2 / margin
        own = (self.candidate.bad + pseudo_requests * rate) / (self.candidate.requests + pseudo_requests)
        own = min(max(own, LOWEST_RATE), rate + FURTHEST_SHARE_OF_MARGIN * margin)
        e_values = (
            _log_e_value(stable, candidate, together, together, margin),
            _log_e_value(stable, candidate, rate, own, margin),
        )
        return NonInferiorityTest(
            self.stable.after(stable),
            self.candidate + candidate,
            self.pooled.after(stable + candidate),
            (self.log_wealth[0] + e_values[0], self.log_wealth[1] + e_values[1]),
        )


def combined_log_e(weighted: Sequence[tuple[float, float]]) -> float:
    """log of the weighted average of several e-processes, itself one: pairs of (weight, log E), weights summing to
    1."""
    return _log_sum([math.log(weight) + log_e for weight, log_e in weighted])


def rejects(log_e: float, alpha: float) -> bool:
    """True when E has reached 1/alpha."""
    return log_e >= -math.log(alpha)


def _log_e_value(stable: Arm, candidate: Arm, stable_rate: float, candidate_rate: float, gap: float) -> float:
    """log likelihood ratio of (stable_rate, candidate_rate) against the nearest null point (x, x + gap)."""
    null = _nearest_null(stable.requests, candidate.requests, stable_rate, candidate_rate, gap)
    return _log_likelihood_ratio(stable, stable_rate, null) + _log_likelihood_ratio(
        candidate, candidate_rate, null + gap
    )


def _log_likelihood_ratio(arm: Arm, rate: float, null: float) -> float:
    """Binomial log likelihood ratio of `rate` against `null`. More bad answers than requests count as all bad.

    Answers can outnumber starts within a block, since an answer may belong to a request that started before it.
    """
    bad = min(arm.bad, arm.requests)
    good = arm.requests - bad
    return bad * (math.log(rate) - math.log(null)) + good * (math.log1p(-rate) - math.log1p(-null))


def _nearest_null(stable: int, candidate: int, stable_rate: float, candidate_rate: float, gap: float) -> float:
    """The x in (0, 1 - gap) that minimises ns KL(stable_rate || x) + nc KL(candidate_rate || x + gap)."""
    if gap == 0.0:
        return (stable * stable_rate + candidate * candidate_rate) / (stable + candidate)
    low, high = 1e-12, 1 - gap - 1e-12
    guess = (stable * stable_rate + candidate * (candidate_rate - gap)) / (stable + candidate)
    # Near 0 a Newton step only doubles x, so that it must not begin there.
    x = min(max(guess, stable_rate / 2), 1 - gap - 1e-9)
    for _ in range(NEWTON_STEPS):
        y = x + gap
        slope = stable * (x - stable_rate) / (x * (1 - x)) + candidate * (y - candidate_rate) / (y * (1 - y))
        low, high = (low, x) if slope > 0 else (x, high)
        curvature = _curvature(stable, stable_rate, x) + _curvature(candidate, candidate_rate, y)
        step = x - slope / curvature
        moved = step if low <= step <= high else (low + high) / 2
        if abs(moved - x) <= 1e-12 * x:
            break
        x = moved
    return x


def _curvature(requests: int, rate: float, x: float) -> float:
    return requests * (rate / (x * x) + (1 - rate) / ((1 - x) * (1 - x)))


def _log_sum(terms: Sequence[float]) -> float:
    largest = max(terms)
    if largest == -math.inf:
        return largest
    return largest + math.log(sum(math.exp(term - largest) for term in terms))
