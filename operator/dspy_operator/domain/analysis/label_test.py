"""Is the candidate worse? A test that needs one fact: the gateway draws each request's revision at random.

Whether an answer goes bad tells nothing about who drew it, unless the revisions differ. Outages, bursts, drifts,
retries of clients, lost polls: none of it depends on the draw. Under the null, at every draw and given the past, the
candidate's answer goes bad no more often, and no sooner, than stable's would. E starts at 1 and is then a non-negative
supermartingale, so the chance that it ever reaches 1/alpha is at most alpha, at any look, over any horizon
(Ville 1939; Ramdas, Gruenwald, Vovk and Shafer 2023).

E is a mixture of likelihood ratios over relative risks r. Of a candidate whose bad answers are r times as likely, a bad
answer is the candidate's with probability q = w r / (w r + 1 - w) instead of w. Everything is in natural logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from dspy_operator.domain.analysis.draws import Draws, log_sum

RISKS = (1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 10_000.0)
"""Relative risks of the mixture; one under about 1.2 is rarely found, and that is as it should be."""

PRIOR = (0.06, 0.06, 0.08, 0.1, 0.12, 0.13, 0.45)
_LOG_PRIOR = tuple(math.log(prior) for prior in PRIOR)

FROM_THE_START = 0.7
"""Share of E that is bet from the first total on; the rest is bet on later beginnings, so that a candidate that turns
bad late is found soon."""


def log_e(totals: Sequence[Draws], tolerance: float = 0.0) -> float:
    """log E of totals in their order, each of one weight and of at most five minutes.

    With a `tolerance` (a fraction) the null is p_candidate <= p_stable + tolerance (1 - p_stable). Totals that drew
    nothing are skipped. E = sum over beginnings j of pi_j times the mixture of what came from j on, plus a reserve.
    """
    drawn = [total for total in totals if total.drawn]
    if not drawn:
        return 0.0
    since = [0.0] * len(RISKS)
    terms = [math.log((1 - FROM_THE_START) / len(drawn))]
    for j in range(len(drawn) - 1, -1, -1):
        since = [so_far + _log_ratio(drawn[j], risk, tolerance) for so_far, risk in zip(since, RISKS, strict=True)]
        beginning = FROM_THE_START if j == 0 else (1 - FROM_THE_START) / (j * (j + 1))
        mixture = log_sum([log_prior + ratio for log_prior, ratio in zip(_LOG_PRIOR, since, strict=True)])
        terms.append(math.log(beginning) + mixture)
    return log_sum(terms)


def _log_ratio(draws: Draws, risk: float, tolerance: float) -> float:
    """log likelihood ratio of one total under a relative risk."""
    of_candidate, of_stable, forgiven = _log_factors(draws.weight, risk, tolerance)
    return draws.candidate_bad * of_candidate + draws.stable_bad * of_stable + draws.stable_requests * forgiven


@lru_cache(maxsize=4096)
def _log_factors(weight: float, risk: float, tolerance: float) -> tuple[float, float, float]:
    """What one bad answer of the candidate, one of stable, and one request to stable add to the log ratio."""
    share = weight * risk / (weight * risk + 1 - weight)
    forgiven = math.log1p(-tolerance * (share - weight) / (1 - weight)) if tolerance else 0.0
    return math.log(share / weight), math.log((1 - share) / (1 - weight)), forgiven
