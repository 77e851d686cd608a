"""The fast loop: it may take weight from a candidate, and nothing else. Pure.

Who is stable and who is the candidate is read from the routes alone. No Deployment, Secret, registry or policy stands
before it; without a readable policy it is the default guard.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from dspy_contract.routes import Lowered, Routes
from dspy_operator.api.reasons import Reason
from dspy_operator.api.rollout import Analysis
from dspy_operator.domain.analysis.evidence import Evidence
from dspy_operator.domain.analysis.judge import judge_worse
from dspy_operator.domain.following import with_none_at
from dspy_operator.domain.release.health import counts_missing


@dataclass(frozen=True, slots=True)
class Watched:
    """What is known of a candidate, and the number of its last lowering that a pass has answered."""

    evidence: Evidence
    answered: int


def guard(routes: Routes, watched: Mapping[str, Watched], analysis: Analysis, unseen: frozenset[str]) -> Lowered | None:
    """Whom to lower, or None. `unseen`: pods that carry traffic and whose counts are too old.

    One that another look has lowered waits for a pass.
    """
    release = routes.release
    for candidate in routes.candidates if release else ():
        backend, known = routes.backend(candidate), watched[candidate]
        waits = routes.lowered is not None and routes.lowered.revision == candidate
        if waits or not (backend.weight or backend.mirror):
            continue
        assert release is not None
        about = release.id, known.answered + 1, candidate
        if unseen:
            return Lowered(*about, Reason.COUNTS_MISSING, "", counts_missing(unseen))
        worse = judge_worse(known.evidence, analysis)
        if worse:
            return Lowered(*about, worse.reason, worse.stream, worse.message)
    return None


def lower(routes: Routes, lowered: Lowered, newest: int) -> Routes:
    """The routes with the candidate at 0: with all of them, where nothing is seen. `newest` is the greatest serial seen
    anywhere."""
    unseen = lowered.reason == Reason.COUNTS_MISSING
    gone = routes.candidates if unseen else (lowered.revision,)
    return replace(with_none_at(routes, gone, newest), lowered=lowered)
