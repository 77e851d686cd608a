"""Rules that are no statistics: is stable healthy, does it suffer, can the candidate be reached, is it seen?

Alpha does not cover them, so none of them refuses: they lower or hold, and say so.
"""

from __future__ import annotations

from collections.abc import Collection

from dspy_operator.api.reasons import Reason
from dspy_operator.domain.analysis.evidence import Evidence
from dspy_operator.domain.ledger import Release
from dspy_operator.domain.snapshot import Problem, Snapshot

UNRESOLVABLE = frozenset({Reason.MODEL_NOT_FOUND, Reason.ALIAS_NOT_FOUND, Reason.INVALID_MODEL_URI})
"""What the spec asks for does not exist: a definite answer, not a registry that is away."""

UNHEALTHY_SHARE, UNHEALTHY_REQUESTS = 0.5, 5.0
SUFFERS_SHARE, SUFFERS_TIMES, SUFFERS_REQUESTS = 0.2, 4.0, 20.0
SUFFERS_SECONDS = 120.0
"""How long stable may take to recover without the candidate, if that was the cause."""

UNREACHABLE_FAILURES = 1.5
"""Two of the last ten requests, the older the lighter."""

OVERLOADED_SHARE, OVERLOADED_TIMES, OVERLOADED_ANSWERS = 0.02, 2.0, 1.5


def stable_is_unhealthy(evidence: Evidence) -> bool:
    """True while stable itself fails more than half of its recent requests."""
    recent = evidence.stable_recent
    return recent.requests >= UNHEALTHY_REQUESTS and recent.share > UNHEALTHY_SHARE


def stable_suffers(evidence: Evidence) -> bool:
    """True while stable fails far more than before: no test by draws sees a candidate that drags it down."""
    recent, history = evidence.stable_recent, evidence.history
    before = history.failures / history.requests if history.requests else 0.0
    return recent.requests >= SUFFERS_REQUESTS and recent.share > max(SUFFERS_SHARE, SUFFERS_TIMES * before)


def candidate_is_unreachable(evidence: Evidence) -> bool:
    """True while connections to the candidate fail and none to stable does."""
    return (
        evidence.candidate_unreachable.bad >= UNREACHABLE_FAILURES
        and evidence.stable_unreachable.bad < UNREACHABLE_FAILURES / 10
    )


def candidate_is_overloaded(evidence: Evidence, already: bool) -> bool:
    """True while the candidate's pods have no room for far more of their requests than stable's: it needs capacity.

    `already`: the release waits for it. It goes on at half of the share, not at the same one.
    """
    recent = evidence.candidate_overloaded
    if recent.bad < OVERLOADED_ANSWERS and recent.requests < 1 / OVERLOADED_SHARE:
        return False  # one of a few requests is no share yet
    limit = max(OVERLOADED_SHARE, OVERLOADED_TIMES * evidence.stable_overloaded.share)
    return recent.share > (limit / 2 if already else limit)


def counts_missing(unseen: Collection[str]) -> str:
    """The sentence about gateway pods that carry traffic and cannot be seen."""
    return f"No fresh counts from {', '.join(sorted(unseen))}: a candidate carries no traffic unseen"


def is_seen(snapshot: Snapshot) -> bool:
    """True while no gateway pod that carries traffic is out of sight. One that was not asked yet has a while for it."""
    return not snapshot.gateway.unseen


def spec_is_unresolved(release: Release, snapshot: Snapshot) -> bool:
    """True when the spec does not ask for the candidate any more, and what it asks for now is not known: it has
    changed, or the alias that it follows is gone."""
    gone = isinstance(snapshot.desired, Problem) and snapshot.desired.reason in UNRESOLVABLE
    return snapshot.desired_revision is None and (gone or snapshot.program.generation != release.generation)
