"""Does the candidate fail more often than a limit? A doubt, never a verdict: it knows nothing of stable.

E is the mixture of likelihood ratios of limit + d (1 - limit) against the limit. An outage that hits both revisions
crosses it as well, so it pauses and lowers to where the label test can decide, and refuses nothing.
"""

from __future__ import annotations

import math

from dspy_operator.domain.analysis.draws import log_sum

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
