"""Lower first, refuse later: a candidate loses its weight at once, and what becomes of it is decided when all is known.

Statistics refuse, once every table that drew the candidate is settled; everything else pauses, and goes on when its
cause is gone. The guard may have lowered first, in the routes: only a pass answers that, here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from dspy_contract.routes import Lowered
from dspy_operator.api.reasons import Reason
from dspy_operator.domain.analysis.judge import is_confirmed, judge, judge_worse
from dspy_operator.domain.analysis.verdict import Verdict
from dspy_operator.domain.ledger import Ledger, Lowering, Release
from dspy_operator.domain.readiness import draws_users, fully_ready, routes_acked
from dspy_operator.domain.release.health import (
    SUFFERS_REQUESTS,
    SUFFERS_SECONDS,
    SUFFERS_SHARE,
    UNRESOLVABLE,
    candidate_is_unreachable,
    counts_missing,
    is_seen,
    spec_is_unresolved,
    stable_suffers,
)
from dspy_operator.domain.release.in_force import analysis_of
from dspy_operator.domain.release.lifecycle import refuse
from dspy_operator.domain.snapshot import Problem, Snapshot
from dspy_operator.domain.transition import Event, Transition

CLEAR_SECONDS, LONGEST_CLEAR_SECONDS = 30.0, 600.0
"""How long the cause must be gone before the candidate goes on; doubled each time."""


def answer_lowered(ledger: Ledger, snapshot: Snapshot, now: float) -> Transition:
    """What the guard did to the routes becomes the ledger's; one of a release that has ended is without effect."""
    lowered = snapshot.routes.lowered if snapshot.routes else None
    release = ledger.release
    if lowered is None:
        return ledger, ()
    if release is None or lowered.release != release.id or lowered.revision not in release.candidates:
        message = f"The guard lowered {lowered.revision} of a release that has ended: it is without effect"
        return ledger, (Event(Reason.LOWERED_TOO_LATE, message, warning=True),)
    # Where nothing was seen, all have been lowered.
    gone = release.candidates if lowered.reason == Reason.COUNTS_MISSING else (lowered.revision,)
    events: tuple[Event, ...] = ()
    for candidate in gone:
        assert ledger.release is not None
        ledger, told = _answer(ledger, ledger.release.about(candidate), snapshot, lowered)
        events += told
        assert ledger.release is not None
        ledger = replace(ledger, release=ledger.release.about_first())
    return ledger, events


def _answer(ledger: Ledger, release: Release, snapshot: Snapshot, lowered: Lowered) -> Transition:
    if lowered.number <= release.answered:
        return ledger, ()
    if release.lowered:
        return replace(ledger, release=replace(release, answered=lowered.number)), ()
    return _lower(ledger, release, snapshot, lowered.number, lowered.reason, lowered.stream, lowered.message)


def lower_candidate(ledger: Ledger, snapshot: Snapshot, now: float) -> Transition:
    """A candidate that is worse, out of sight or out of reach, or that may drag stable down, loses its weight."""
    release = ledger.release
    if release is None or release.lowered or not (release.weight_bp or release.evidence.copies):
        return ledger, ()
    # Copies may be answered when their step is over.
    worse = judge_worse(release.evidence, analysis_of(release, snapshot))
    number = release.answered + 1
    if worse:
        return _lower(ledger, release, snapshot, number, worse.reason, worse.stream, worse.message)
    cause = _cause(release, snapshot) if release.weight_bp else None
    return _lower(ledger, release, snapshot, number, cause.reason, "", cause.message) if cause else (ledger, ())


def settle_lowered(ledger: Ledger, snapshot: Snapshot, now: float) -> Transition:
    """A lowered candidate is refused, goes on, or waits."""
    release = ledger.release
    if release is None or release.lowered is None:
        return ledger, ()
    lowered = release.lowered
    if lowered.stream:
        return _confirm(ledger, release, lowered, snapshot, now)
    if may_go_on(release, lowered) and fully_ready(snapshot, release):
        return _resume(ledger, release, lowered, snapshot)
    return ledger, ()


def may_go_on(release: Release, lowered: Lowering) -> bool:
    """True when the cause has been gone for long enough.

    When stable has recovered without the candidate twice, a person decides; one that stays sick without it was not
    made sick by it.
    """
    times = release.lowerings.get(lowered.reason, 1)
    if lowered.reason == Reason.STABLE_SUFFERS:
        return _is_sick_alone(release) or (times < 2 and lowered.clear_seconds >= CLEAR_SECONDS)
    needed = min(CLEAR_SECONDS * 2.0 ** (times - 1), LONGEST_CLEAR_SECONDS)
    return lowered.clear_seconds >= needed


def cause_is_gone(release: Release, snapshot: Snapshot) -> bool:
    """Whether what lowered the candidate is over now; for statistics, see `settle_lowered`."""
    assert release.lowered is not None
    match release.lowered.reason:
        case Reason.COUNTS_MISSING:
            return is_seen(snapshot)
        case Reason.UNREACHABLE:
            return fully_ready(snapshot, release)
        case Reason.STABLE_SUFFERS:
            return not stable_suffers(release.evidence) or _is_sick_alone(release)
        case Reason.SPEC_UNRESOLVED:
            return not spec_is_unresolved(release, snapshot)
    return True


def _is_sick_alone(release: Release) -> bool:
    """True when stable suffers though the candidate has had no traffic for long: the exchanged test decides then.

    What it suffers is what it answered since: silence is no sickness.
    """
    assert release.lowered is not None
    before, now = release.lowered.stable, release.evidence.stable
    requests, failures = now.requests - before.requests, now.failures - before.failures
    alone = release.lowered.seconds > SUFFERS_SECONDS and requests >= SUFFERS_REQUESTS
    return alone and failures / requests > SUFFERS_SHARE and stable_suffers(release.evidence)


def _cause(release: Release, snapshot: Snapshot) -> Problem | None:
    """Why the candidate must lose its weight, apart from statistics."""
    if not is_seen(snapshot):
        return Problem(Reason.COUNTS_MISSING, counts_missing(snapshot.gateway.unseen))
    if candidate_is_unreachable(release.evidence):
        return Problem(Reason.UNREACHABLE, "Connections to the candidate fail, and none to stable does")
    if release.policy and stable_suffers(release.evidence) and not _stayed_sick(release):
        message = f"Stable fails far more often since the candidate has {release.given}: the candidate may drag it down"
        return Problem(Reason.STABLE_SUFFERS, message)
    problem = snapshot.desired
    if spec_is_unresolved(release, snapshot) and isinstance(problem, Problem) and problem.reason in UNRESOLVABLE:
        return Problem(Reason.SPEC_UNRESOLVED, f"The spec does not ask for the candidate any more: {problem.message}")
    return None


def _stayed_sick(release: Release) -> bool:
    return Reason.STABLE_STAYS_SICK in release.lowerings


def _lower(
    ledger: Ledger, release: Release, snapshot: Snapshot, number: int, reason: str, stream: str, message: str
) -> Transition:
    lowered = Lowering(number, reason, stream, message, release.weight_bp, stable=release.evidence.stable)
    lowerings = _counted(release.lowerings, reason)
    release = replace(release, lowered=lowered, weight_bp=0, answered=number, lowerings=lowerings, blocked_seconds=0.0)
    event = Event(
        Reason.CANDIDATE_LOWERED, f"{snapshot.label(release.candidate)} has no {release.given}: {message}", True
    )
    return replace(ledger, release=release), (event,)


def _confirm(ledger: Ledger, release: Release, lowered: Lowering, snapshot: Snapshot, now: float) -> Transition:
    """Refuses when the evidence still stands with every answer in; else the release goes on."""
    acked = routes_acked(snapshot, ledger.serial, release.blocked_seconds)
    drawn = [table for table in release.evidence.tables.values() if table.total.weight > 0]
    if not acked or any(not table.settled for table in drawn):
        return ledger, ()
    if draws_users(release, snapshot.program) and not release.evidence.users.complete:
        return ledger, ()
    judged = judge(release.evidence, analysis_of(release, snapshot))
    if not is_confirmed(judged):
        return _resume(ledger, release, lowered, snapshot) if fully_ready(snapshot, release) else (ledger, ())
    final = judged if judged.verdict is Verdict.WORSE else None
    reason, message = (final.reason, final.message) if final else (lowered.reason, lowered.message)
    return refuse(ledger, snapshot, now, Reason.ROLLED_BACK, reason, message)


def _resume(ledger: Ledger, release: Release, lowered: Lowering, snapshot: Snapshot) -> Transition:
    lowerings = release.lowerings
    if lowered.reason == Reason.STABLE_SUFFERS and _is_sick_alone(release):
        lowerings = _counted(lowerings, Reason.STABLE_STAYS_SICK)
    if lowered.reason == Reason.UNREACHABLE:
        # What failed before is over: it must not lower the candidate again before a request has been tried.
        tried = replace(release.evidence.candidate_unreachable, requests=0.0, bad=0.0)
        release = replace(release, evidence=replace(release.evidence, candidate_unreachable=tried))
    release = replace(release, lowered=None, weight_bp=lowered.weight_bp, lowerings=lowerings, blocked_seconds=0.0)
    why = "not confirmed by its late answers" if lowered.stream else "its cause is gone"
    event = Event(Reason.RELEASE_RESUMED, f"{snapshot.label(release.candidate)} has its {release.given} again: {why}")
    return replace(ledger, release=release), (event,)


def _counted(lowerings: Mapping[str, int], reason: str) -> dict[str, int]:
    return {**lowerings, str(reason): lowerings.get(str(reason), 0) + 1}
