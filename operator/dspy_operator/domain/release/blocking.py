"""What keeps a release from moving: blocking reasons, the step's clock, and when a wait becomes a visible pause."""

from __future__ import annotations

from dataclasses import replace

from dspy_operator.domain.ledger import Ledger, Paused, Release
from dspy_operator.domain.readiness import can_serve, fully_ready, problem_of
from dspy_operator.domain.release.messages import describe_step
from dspy_operator.domain.snapshot import Snapshot
from dspy_operator.domain.transition import Event, Transition

DEFAULT_PROGRESS_DEADLINE_SECONDS = 600.0
DEFAULT_STEP_DEADLINE_SECONDS = 3600.0


def blocking_reason(ledger: Ledger, snapshot: Snapshot) -> Paused | None:
    """What keeps the steps from moving, apart from the steps themselves."""
    release, policy = ledger.release, snapshot.policy
    if release is None:
        return None
    if release.policy and policy is None:
        return Paused("PolicyMissing", f"The rollout {release.policy} is gone: create it again, or abort, or go back")
    if policy and policy.spec.paused:
        return Paused("PausedByUser", "Paused by spec.paused of the rollout; the guard stays on")
    serves = can_serve(snapshot, release.candidate)
    if not serves or not (release.ready_once or fully_ready(snapshot, release.candidate)):
        problem = problem_of(snapshot.workloads.get(release.candidate))
        return Paused(problem.reason, f"The candidate is not ready: {problem.message}")
    if release.policy and not can_serve(snapshot, ledger.stable):
        message = "Stable cannot answer: the candidate has the traffic that can be answered, and nothing is decided"
        return Paused("StableNotReady", message)
    if release.policy and release.evidence.stable_unhealthy:
        message = "Stable itself fails more than half of its requests: nothing is decided until it heals"
        return Paused("StableUnhealthy", message)
    return None


def update_step_clock(ledger: Ledger, snapshot: Snapshot, now: float) -> Transition:
    """A step's clock stands still while something blocks the release that is nobody's step."""
    release = ledger.release
    if release is None:
        return ledger, ()
    if not release.ready_once and fully_ready(snapshot, release.candidate):
        release = at_step(replace(release, ready_once=True), snapshot, release.step, now)
        event = Event("CandidateReady", f"{snapshot.label(release.candidate)} is ready")
        return replace(ledger, release=release), (event,)
    blocked = blocking_reason(ledger, snapshot) is not None
    if blocked and release.clock_stopped_at is None:
        release = replace(release, clock_stopped_at=now)
    elif not blocked and release.clock_stopped_at is not None:
        stood = now - release.clock_stopped_at
        release = replace(release, clock_stopped_at=None, step_started_at=release.step_started_at + stood)
    return replace(ledger, release=release), ()


def update_pause(ledger: Ledger, snapshot: Snapshot, now: float) -> Transition:
    """A wait that lasts too long, or that a person asked for, is a pause: visible, and over when its cause is."""
    release = ledger.release
    if release is None:
        return ledger, ()
    paused = _pause(ledger, release, snapshot, now)
    if paused == release.paused or (paused and release.paused and paused.reason == release.paused.reason):
        return ledger, ()
    if paused:
        event = Event("ReleasePaused", paused.message, warning=True)
    else:
        event = Event("ReleaseResumed", "The release goes on")
    return replace(ledger, release=replace(release, paused=paused)), (event,)


def at_step(release: Release, snapshot: Snapshot, step: int, now: float) -> Release:
    """The release at the beginning of a step."""
    workload = snapshot.workloads.get(release.candidate)
    return replace(
        release,
        step=step,
        step_started_at=now,
        step_started_requests=release.evidence.candidate.requests,
        step_started_crashes=workload.crashes if workload else 0,
        clock_stopped_at=None,
    )


def _pause(ledger: Ledger, release: Release, snapshot: Snapshot, now: float) -> Paused | None:
    policy = snapshot.policy
    blocked = blocking_reason(ledger, snapshot)
    if blocked and blocked.reason in ("PolicyMissing", "PausedByUser"):
        return blocked
    if blocked:
        deadline = policy.spec.progress_deadline_seconds if policy else DEFAULT_PROGRESS_DEADLINE_SECONDS
        since = release.clock_stopped_at if release.clock_stopped_at is not None else now
        return Paused("ProgressDeadlineExceeded", blocked.message) if now - since >= deadline else None
    deadline = policy.spec.step_deadline_seconds if policy else DEFAULT_STEP_DEADLINE_SECONDS
    if not release.ready_once or now - release.step_started_at < deadline or not _waits_for_others(release):
        return None
    message = f"{describe_step(ledger, release, snapshot, now)} (for longer than {deadline:.0f} s)"
    return Paused("StepDeadlineExceeded", message)


def _waits_for_others(release: Release) -> bool:
    """True while a step waits for somebody else: requests, proof, or gateways that have not confirmed a weight."""
    if release.step >= len(release.steps):
        return bool(release.policy)
    return release.steps[release.step].waits_for_others
