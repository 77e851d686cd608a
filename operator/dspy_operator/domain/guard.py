"""The fast loop: it may take weight from a candidate, and nothing else. Pure.

Who is stable and who is the candidate is read from the routes alone. No Deployment, Secret, registry or policy stands
before it; without a readable policy it is the default guard.
"""

from __future__ import annotations

from dataclasses import replace

from dspy_contract.routes import Lowered, Routes
from dspy_operator.api.reasons import Reason
from dspy_operator.api.rollout import Analysis
from dspy_operator.domain.analysis.evidence import Evidence
from dspy_operator.domain.analysis.judge import judge_worse
from dspy_operator.domain.following import with_all_at_stable
from dspy_operator.domain.release.health import counts_missing


def guard(
    routes: Routes, evidence: Evidence, analysis: Analysis, unseen: frozenset[str], answered: int
) -> Lowered | None:
    """What to lower, or None. `unseen`: pods that carry traffic and whose counts are too old.

    `answered` is the number of the last lowering that a pass has answered.
    """
    release = routes.release
    if release is None or not release.candidates:
        return None
    candidate = release.candidates[0]
    if not routes.tries_candidates or routes.lowered is not None:
        return None
    if unseen:
        return Lowered(release.id, answered + 1, candidate, Reason.COUNTS_MISSING, "", counts_missing(unseen))
    worse = judge_worse(evidence, analysis)
    if worse is None:
        return None
    return Lowered(release.id, answered + 1, candidate, worse.reason, worse.stream, worse.message)


def lower(routes: Routes, lowered: Lowered, newest: int) -> Routes:
    """The routes with the candidate at 0 and stable at all. `newest` is the greatest serial seen anywhere."""
    return replace(with_all_at_stable(routes, newest), lowered=lowered)
