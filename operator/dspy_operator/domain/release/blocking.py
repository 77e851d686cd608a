"""What keeps a release from moving, and when a wait becomes a visible pause."""

from __future__ import annotations

from dataclasses import replace

from dspy_operator.api.reasons import Reason
from dspy_operator.domain.analysis.judge import above_ceiling, is_better
from dspy_operator.domain.analysis.readings import worst
from dspy_operator.domain.ledger import Ledger, Paused, Release
from dspy_operator.domain.readiness import can_serve, fully_ready, missing_features, problem_of, release_needs
from dspy_operator.domain.release.health import (
    candidate_is_overloaded,
    is_seen,
    spec_is_unresolved,
    stable_is_unhealthy,
)
from dspy_operator.domain.release.in_force import analysis_of
from dspy_operator.domain.release.messages import describe_step
from dspy_operator.domain.release.progress import at_step, awaits_approval, awaits_decision, progress_of
from dspy_operator.domain.snapshot import Problem, Snapshot
from dspy_operator.domain.transition import Event, Transition

DEFAULT_PROGRESS_DEADLINE_SECONDS = 600.0
DEFAULT_STEP_DEADLINE_SECONDS = 3600.0
CEILING_WEIGHT_BP = 5_000
"""A candidate in doubt keeps at most this weight: there the label test decides soonest."""

SHOWN_AT_ONCE = frozenset(
    {
        Reason.POLICY_MISSING,
        Reason.PAUSED_BY_USER,
        Reason.NAME_TAKEN,
        Reason.GATEWAY_TOO_OLD,
        Reason.UNREADABLE,
        Reason.ABOVE_CEILING,
        Reason.OVERLOADED,
        Reason.METRIC_ABOVE_LIMIT,
        Reason.SPEC_UNRESOLVED,
    }
)
"""Blocking reasons that are a pause from the first moment, not only after the progress deadline."""

BY_LOWERING = frozenset({Reason.NOT_CONFIRMED, Reason.COUNTS_MISSING, Reason.UNREACHABLE, Reason.STABLE_SUFFERS})
"""Blocking reasons of a lowered candidate, which has events of its own."""


def blocking_reason(ledger: Ledger, snapshot: Snapshot) -> Paused | None:
    """What keeps the steps from moving, apart from the steps themselves."""
    for each in ledger.release.each if ledger.release else ():
        found = _blocks(ledger, each, snapshot)
        if found:
            named = f"{snapshot.label(each.candidate)}: " if each.others else ""
            return replace(found, message=f"{named}{found.message}")
    return None


def _blocks(ledger: Ledger, release: Release, snapshot: Snapshot) -> Paused | None:
    """What of the candidate that it is about."""
    return (
        _lowered(release)
        or _held_by_people(ledger, release, snapshot)
        or _candidate_not_ready(release, snapshot)
        or (_undecidable(ledger, release, snapshot) if release.policy else None)
    )


def update_pause(ledger: Ledger, snapshot: Snapshot, now: float) -> Transition:
    """A wait that lasts too long, or that a person asked for, is a pause: visible, and over when its cause is."""
    release = ledger.release
    if release is None:
        return ledger, ()
    paused = _pause(ledger, release, snapshot, now)
    if paused == release.paused:
        return ledger, ()
    ledger = replace(ledger, release=replace(release, paused=paused))
    reasons = {each.reason for each in (paused, release.paused) if each}
    if len(reasons) == 1 and paused and release.paused:
        return ledger, ()  # the words changed, not the state
    if reasons & BY_LOWERING:
        return ledger, ()  # told when it was lowered, and when it got its traffic back
    if paused:
        return ledger, (Event(Reason.RELEASE_PAUSED, paused.message, warning=True),)
    return ledger, (Event(Reason.RELEASE_RESUMED, "The release goes on"),)


def halve_doubted(ledger: Ledger, snapshot: Snapshot, now: float) -> Transition:
    """A candidate above its ceiling, or without room for its requests, falls to half of the traffic."""
    release = ledger.release
    if release is None or release.backend.weight <= CEILING_WEIGHT_BP or _doubted(release, snapshot) is None:
        return ledger, ()
    halved = replace(at_step(release, release.step), weight_bp=CEILING_WEIGHT_BP, halvings=release.halvings + 1)
    return replace(ledger, release=halved), ()


def _lowered(release: Release) -> Paused | None:
    if release.lowered is None:
        return None
    if release.lowered.stream:
        message = f"{release.lowered.message}. Waiting for its late answers before it is refused"
        return Paused(Reason.NOT_CONFIRMED, message)
    return Paused(release.lowered.reason, release.lowered.message)


def _held_by_people(ledger: Ledger, release: Release, snapshot: Snapshot) -> Paused | None:
    policy = snapshot.policy
    if snapshot.conflict:
        return Paused(snapshot.conflict.reason, snapshot.conflict.message)
    if ledger.undoes(release.candidate):
        return None  # the way back waits for no policy
    if release.policy and policy is None:
        message = f"The rollout {release.policy} is gone: create it again, or abort, or go back"
        return Paused(Reason.POLICY_MISSING, message)
    if policy and policy.unreadable:
        message = f"The rollout {policy.name} cannot be read by this operator: {policy.unreadable}"
        return Paused(Reason.UNREADABLE, message)
    if policy and policy.spec.paused:
        return Paused(Reason.PAUSED_BY_USER, "Paused by spec.paused of the rollout; the guard stays on")
    if spec_is_unresolved(release, snapshot) and isinstance(snapshot.desired, Problem):
        message = (
            f"The spec no longer asks for the candidate, and what it asks for is not known: {snapshot.desired.message}"
        )
        # What is being asked just now is no pause: the answer comes with one of the next passes.
        asked = snapshot.desired.reason == Reason.RESOLVING
        return Paused(Reason.RESOLVING if asked else Reason.SPEC_UNRESOLVED, message)
    return None


def _candidate_not_ready(release: Release, snapshot: Snapshot) -> Paused | None:
    serves = can_serve(snapshot, release.candidate)
    if serves and (release.ready_once or fully_ready(snapshot, release)):
        return None
    problem = problem_of(snapshot.workloads.get(release.candidate))
    return Paused(problem.reason, f"The candidate is not ready: {problem.message}")


def _undecidable(ledger: Ledger, release: Release, snapshot: Snapshot) -> Paused | None:
    return (
        _stable_in_trouble(ledger, release, snapshot) or _doubted(release, snapshot) or _unmeasured(release, snapshot)
    )


def _stable_in_trouble(ledger: Ledger, release: Release, snapshot: Snapshot) -> Paused | None:
    if not can_serve(snapshot, ledger.stable):
        message = "Stable cannot answer: the candidate has the traffic that can be answered, and nothing is decided"
        return Paused(Reason.STABLE_NOT_READY, message)
    if release.backend.weight == 0 or not stable_is_unhealthy(release.evidence):
        return None  # its first share lets the candidate show that it is better
    if is_better(release.evidence, release.false_rollback_percent / 100):
        return None
    message = "Stable itself fails more than half of its requests: nothing is decided until it heals"
    return Paused(Reason.STABLE_UNHEALTHY, f"{message}, or until the candidate is shown to be better")


def _doubted(release: Release, snapshot: Snapshot) -> Paused | None:
    if not is_seen(snapshot):
        return Paused(Reason.COUNTS_MISSING, "Waiting for fresh counts from every gateway pod")
    lacking = missing_features(snapshot.gateway, release_needs(release, snapshot))
    if lacking:
        message = f"The gateway pod {lacking[0]} is of an older version and gives a candidate no traffic: it lacks"
        return Paused(Reason.GATEWAY_TOO_OLD, f"{message} {lacking[1]}. Delete it, and a new one comes")
    already = release.paused is not None and release.paused.reason == Reason.OVERLOADED
    if candidate_is_overloaded(release.evidence, already):
        share = release.evidence.candidate_overloaded.share
        message = f"The candidate's pods have no room for {share:.0%} of its recent requests: it needs more capacity"
        return Paused(Reason.OVERLOADED, message)
    return _above_ceiling(release, snapshot) or _above_limit(release, snapshot)


def _above_ceiling(release: Release, snapshot: Snapshot) -> Paused | None:
    above = above_ceiling(release.evidence, analysis_of(release, snapshot), release.step, release.watched)
    if above is None:
        return None
    stream, ceiling = above
    limit = f"The candidate {stream.verb} more often than {100 * ceiling:.3g}%"
    half = "it gets no more than copies" if release.mirrors else "it keeps at most half of the traffic"
    return Paused(Reason.ABOVE_CEILING, f"{limit}: {half}, where the test decides")


def _above_limit(release: Release, snapshot: Snapshot) -> Paused | None:
    """While a number of Prometheus is above its limit."""
    above = worst(release.streams, snapshot.readings, above=True)
    if above is None or release.backend.weight == 0:
        return None
    message = f"The metric {above[0]} of the candidate is {above[1]}: it keeps at most half of the traffic"
    return Paused(Reason.METRIC_ABOVE_LIMIT, f"{message}. A metric refuses nothing: wait, or abort")


def _unmeasured(release: Release, snapshot: Snapshot) -> Paused | None:
    """While a number of Prometheus is not known; without traffic there is none."""
    unknown = worst(release.streams, snapshot.readings, above=None)
    if unknown is None or release.backend.weight == 0:
        return None
    return Paused(Reason.METRIC_UNKNOWN, f"Waiting for the metric {unknown[0]}: {unknown[1]}")


def _pause(ledger: Ledger, release: Release, snapshot: Snapshot, now: float) -> Paused | None:
    policy = snapshot.policy
    blocked = blocking_reason(ledger, snapshot)
    if blocked and (any(each.lowered for each in release.each) or blocked.reason in SHOWN_AT_ONCE):
        return blocked
    if blocked:
        deadline = policy.spec.progress_deadline_seconds if policy else DEFAULT_PROGRESS_DEADLINE_SECONDS
        late = release.blocked_seconds >= deadline
        return Paused(Reason.PROGRESS_DEADLINE_EXCEEDED, blocked.message) if late else None
    if release.ready_once and awaits_approval(release):
        return Paused(Reason.AWAITING_APPROVAL, describe_step(ledger, release, snapshot))
    if awaits_decision(release) and release.conclusion:
        named = [f"`promote {each}/{release.step + 1}` or `abort {each}`" for each in release.candidates]
        message = f"Waiting for a decision, {', '.join(named)}: {release.conclusion.message}"
        return Paused(Reason.AWAITING_DECISION, message)
    deadline = policy.spec.step_deadline_seconds if policy else DEFAULT_STEP_DEADLINE_SECONDS
    if not release.ready_once or release.step_seconds < deadline or not _waits_for_others(ledger, release, snapshot):
        return None
    message = f"{describe_step(ledger, release, snapshot)} (for longer than {deadline:.0f} s)"
    return Paused(Reason.STEP_DEADLINE_EXCEEDED, message)


def _waits_for_others(ledger: Ledger, release: Release, snapshot: Snapshot) -> bool:
    """True while a step waits for somebody else: requests, proof, or gateways that have not confirmed a weight."""
    if release.step >= len(release.steps):
        return bool(release.policy)
    if any(each.rises_to_bp() > each.weight_bp and not fully_ready(snapshot, each) for each in release.each):
        return True
    return release.steps[release.step].waits_for_others(progress_of(ledger, release, snapshot))
