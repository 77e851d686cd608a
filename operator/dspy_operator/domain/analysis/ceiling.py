"""Does the candidate fail more often than a limit? A doubt, never a verdict: it knows nothing of stable.

E is the mixture of likelihood ratios of limit + d (1 - limit) against the limit. An outage that hits both revisions
crosses it as well, so it pauses and lowers to where the label test can decide, and refuses nothing.
"""

from __future__ import annotations

import math

from dspy_operator.domain.analysis.draws import log_sum

BOUND_LOG = math.log(100)
"""Of an upper bound that one in a hundred exceeds."""

DISTANCES = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 0.97)
PRIOR = (0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.3)


def log_e(requests: int, bad: int, limit: float) -> float:
    """log E of the candidate's totals; requests in flight count as good. `limit` is a fraction."""
    terms = []
    for distance, prior in zip(DISTANCES, PRIOR, strict=True):
        rate = limit + distance * (1 - limit)
        ratio = bad * math.log(rate / limit) + (requests - bad) * math.log((1 - rate) / (1 - limit))
        terms.append(math.log(prior) + ratio)
    return log_sum(terms)


def upper_bound(requests: int, bad: int) -> float:
    """What the share of bad answers is at most, with 99 % confidence: Chernoff's bound, solved by bisection; 1 without
    requests."""
    share = bad / requests if requests else 1.0
    low, high = share, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if requests * _divergence(share, middle) < BOUND_LOG else (low, middle)
    return high


def _divergence(share: float, other: float) -> float:
    """Kullback and Leibler's, of two coins."""
    if other >= 1.0:
        return 0.0 if share >= 1.0 else math.inf
    good = (1 - share) * math.log((1 - share) / (1 - other)) if share < 1 else 0.0
    return good + (share * math.log(share / other) if share > 0 else 0.0)
