"""How a release moves: an ordered list of rules, each a pure step from ledger to ledger with the words it says.

The order is the priority. Going back (a cancelled, refused or aborted candidate) comes before going on, and never waits
for the candidate. Every rule leaves the ledger alone where it has nothing to say, so a second pass changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from dspy_contract.routes import TOTAL_WEIGHT
from dspy_operator.api.rollout import Analysis, OnUndecided, Step
from dspy_operator.domain import evidence as evidence_of
from dspy_operator.domain.evidence import Arms, Judged, Verdict
from dspy_operator.domain.ledger import Ledger, Paused, Refused, Release
from dspy_operator.domain.readiness import able, active, complete, confirmed, problem_of
from dspy_operator.domain.snapshot import Snapshot, Wanted

MOST_CRASHES = 3
DRAIN_TIMEOUT_SECONDS = 600.0
DEFAULT_PROGRESS_DEADLINE_SECONDS = 600.0
DEFAULT_STEP_DEADLINE_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Said:
    """An event: what the operator tells people about one transition."""

    reason: str
    message: str
    warning: bool = False


Turn = tuple[Ledger, tuple[Said, ...]]
Rule = Callable[[Ledger, Snapshot, float], Turn]


def advance(ledger: Ledger, snapshot: Snapshot, now: float) -> Turn:
    """The ledger after every rule had its say, in order, and all that was said."""
    said: tuple[Said, ...] = ()
    for rule in RULES:
        ledger, words = rule(ledger, snapshot, now)
        said += words
    return ledger, said


def recovered(snapshot: Snapshot, now: float) -> Ledger:
    """The ledger of a program whose status is lost: stable is what the routes list first, else what was promoted
    last."""
    routes = snapshot.routes
    if routes is not None and routes.backends:
        stable, *others = routes.backends
        ledger = Ledger(serial=routes.serial, stable=stable.revision, stable_proven=True)
        for backend in others:
            ledger = ledger.with_draining(backend.revision, now)
        return ledger
    promoted = {
        name: workload.promoted_at for name, workload in snapshot.workloads.items() if workload.promoted_at is not None
    }
    return Ledger(stable=max(promoted, key=lambda name: promoted[name]), stable_proven=True) if promoted else Ledger()


def analysis_of(snapshot: Snapshot) -> Analysis:
    """The analysis in force: the policy's as it stands now, else the default guard."""
    return snapshot.policy.spec.analysis if snapshot.policy else Analysis()


def judged(ledger: Ledger, snapshot: Snapshot) -> Judged | None:
    """The verdict on the candidate now; None without a release."""
    return evidence_of.judge(ledger.release.evidence, analysis_of(snapshot)) if ledger.release else None


def waiting_for(ledger: Ledger, snapshot: Snapshot) -> str:
    """One sentence: what the release does or waits for now."""
    release = ledger.release
    if release is None:
        return ""
    if release.paused:
        return release.paused.message
    obstacle = _obstacle(ledger, snapshot)
    if obstacle:
        return obstacle.message
    return _describe_now(release, snapshot)


def step_of(release: Release) -> str:
    """The step at hand and how many there are, as 2/6; empty without steps."""
    return f"{min(release.step + 1, len(release.steps))}/{len(release.steps)}" if release.steps else ""


# The rules, in their order.


def _first(ledger: Ledger, snapshot: Snapshot, now: float) -> Turn:
    """The first revision needs no release, and neither does one that replaces a stable that never answered."""
    if ledger.stable and not ledger.stable_proven and able(snapshot, ledger.stable):
        return replace(ledger, stable_proven=True), (Said("FirstServing", f"{_short(snapshot, ledger.stable)} serves"),)
    wanted = _wanted(snapshot)
    if wanted is None or wanted == ledger.stable or ledger.stable_proven:
        return ledger, ()
    if ledger.stable:
        ledger = ledger.with_draining(ledger.stable, now)
    said = Said("FirstRevision", f"{_short(snapshot, wanted)} is the first revision and serves when it is ready")
    return replace(ledger, stable=wanted, release=None).without_draining(wanted), (said,)


def _heard(ledger: Ledger, snapshot: Snapshot, now: float) -> Turn:
    """A request is handled once; one that names another revision does nothing and is told so."""
    request = snapshot.program.request
    if not request or request == ledger.request:
        return ledger, ()
    ledger = replace(ledger, request=request)
    verb, _, rest = request.partition(" ")
    named = rest.split(" ")[0].partition("/")[0]
    release = ledger.release
    if verb != "abort":
        return ledger, (
            Said(
                "RequestUnknown", f"The request {verb!r} is not known; known is: abort <revision> <nonce>", warning=True
            ),
        )
    if release is None or release.candidate != named:
        current = release.candidate if release else "none"
        return ledger, (Said("RequestIgnored", f"abort names {named!r}, but the candidate is {current}", warning=True),)
    return _refuse(ledger, snapshot, now, "Aborted", "Aborted", "A person aborted the release")


def _settled(ledger: Ledger, snapshot: Snapshot, now: float) -> Turn:
    """A candidate that is no longer wanted goes, at once."""
    release, wanted = ledger.release, _wanted(snapshot)
    if release is None or wanted is None or release.candidate == wanted:
        return ledger, ()
    message = f"{_short(snapshot, wanted)} is wanted instead of {_short(snapshot, release.candidate)}"
    ledger = (
        replace(ledger, release=None)
        .with_draining(release.candidate, now)
        .ended(release.candidate, "Cancelled", message, now)
    )
    return ledger, (Said("ReleaseCancelled", message),)


def _begun(ledger: Ledger, snapshot: Snapshot, now: float) -> Turn:
    """A new revision becomes the candidate, with the policy's steps as they are now."""
    wanted, policy = _wanted(snapshot), snapshot.policy
    if (
        ledger.release
        or wanted is None
        or wanted == ledger.stable
        or ledger.refusal(wanted)
        or not ledger.stable_proven
    ):
        return ledger, ()
    if policy is None and snapshot.program.spec.rollout_policy == "Required":
        return ledger, ()
    steps = policy.spec.strategy.canary.steps if policy else ()
    workload = snapshot.workloads.get(wanted)
    crashes = workload.crashes if workload else 0
    release = Release(
        wanted, now, policy.name if policy else None, steps, step_started_at=now, step_started_crashes=crashes
    )
    how = f"in {len(steps)} steps" if policy else "when it is ready (there is no rollout policy)"
    said = Said("ReleaseStarted", f"{_short(snapshot, wanted)} takes over from {_short(snapshot, ledger.stable)} {how}")
    return replace(ledger, release=release).without_draining(wanted), (said,)


def _learnt(ledger: Ledger, snapshot: Snapshot, now: float) -> Turn:
    """What the gateways counted goes into the evidence."""
    release = ledger.release
    if release is None or ledger.stable is None or not snapshot.gateway.states:
        return ledger, ()
    arms = Arms(ledger.stable, release.candidate, release.started_at)
    folded = evidence_of.fold(
        release.evidence, snapshot.gateway.states, snapshot.program.uid, arms, analysis_of(snapshot)
    )
    workload = snapshot.workloads.get(release.candidate)
    crashes = min(release.step_started_crashes, workload.crashes) if workload else release.step_started_crashes
    return replace(ledger, release=replace(release, evidence=folded, step_started_crashes=crashes)), ()


def _condemned(ledger: Ledger, snapshot: Snapshot, now: float) -> Turn:
    """A candidate that cannot load, keeps crashing, or is worse is refused from every state."""
    release = ledger.release
    if release is None:
        return ledger, ()
    workload = snapshot.workloads.get(release.candidate)
    if workload and workload.fatal:
        return _refuse(ledger, snapshot, now, "Refused", workload.fatal.reason, workload.fatal.message)
    if workload and workload.crashes - release.step_started_crashes >= MOST_CRASHES:
        words = f"The candidate ended by itself {workload.crashes - release.step_started_crashes} times within a step"
        return _refuse(ledger, snapshot, now, "RolledBack", "Crashes", words)
    verdict = judged(ledger, snapshot)
    if verdict and verdict.verdict is Verdict.WORSE:
        return _refuse(ledger, snapshot, now, "RolledBack", verdict.reason, verdict.message)
    return ledger, ()


def _clocked(ledger: Ledger, snapshot: Snapshot, now: float) -> Turn:
    """A step's clock stands still while there is an obstacle that is nobody's step."""
    release = ledger.release
    if release is None:
        return ledger, ()
    if not release.ready_once and complete(snapshot, release.candidate):
        release = _at_step(replace(release, ready_once=True), snapshot, release.step, now)
        said = (Said("CandidateReady", f"{_short(snapshot, release.candidate)} is ready"),)
        return replace(ledger, release=release), said
    blocked = _obstacle(ledger, snapshot) is not None
    if blocked and release.clock_stopped_at is None:
        release = replace(release, clock_stopped_at=now)
    elif not blocked and release.clock_stopped_at is not None:
        stood = now - release.clock_stopped_at
        release = replace(release, clock_stopped_at=None, step_started_at=release.step_started_at + stood)
    return replace(ledger, release=release), ()


def _paused(ledger: Ledger, snapshot: Snapshot, now: float) -> Turn:
    """A wait that lasts too long, or that a person asked for, is a pause: visible, and over as soon as its cause is."""
    release = ledger.release
    if release is None:
        return ledger, ()
    paused = _pause(ledger, snapshot, now)
    if paused == release.paused or (paused and release.paused and paused.reason == release.paused.reason):
        return ledger, ()
    said = (
        Said("ReleasePaused", paused.message, warning=True) if paused else Said("ReleaseResumed", "The release goes on")
    )
    return replace(ledger, release=replace(release, paused=paused)), (said,)


def _stepped(ledger: Ledger, snapshot: Snapshot, now: float) -> Turn:
    """The step that is done gives way to the next; after the last one the candidate becomes stable."""
    release = ledger.release
    if release is None or not release.ready_once or _obstacle(ledger, snapshot):
        return ledger, ()
    said: tuple[Said, ...] = ()
    while release.step < len(release.steps):
        step = release.steps[release.step]
        if step.set_weight is not None and release.weight != _basis_points(step.set_weight):
            release = replace(release, weight=_basis_points(step.set_weight))
            words = f"Step {release.step + 1} of {len(release.steps)}: {step.set_weight:g}% of the traffic goes to the candidate"
            return replace(ledger, release=release), (*said, Said("WeightSet", words))
        if not _done(ledger, release, step, snapshot, now):
            return replace(ledger, release=release), said
        release = _at_step(release, snapshot, release.step + 1, now)
        ledger = replace(ledger, release=release)
    ledger = replace(ledger, release=release)
    if not complete(snapshot, release.candidate) or not _may_promote(release, snapshot):
        return replace(ledger, release=replace(release, awaited_requests=None)), said
    if release.policy and release.awaited_requests is None:
        release = replace(release, awaited_requests=release.evidence.candidate.requests)
    if release.evidence.candidate.answered < (release.awaited_requests or 0):
        return replace(ledger, release=release), said
    return _promote(ledger, snapshot, now, said)


def _drained(ledger: Ledger, snapshot: Snapshot, now: float) -> Turn:
    """A revision without weight and without requests in flight is needed no more."""
    uid = snapshot.program.uid
    said: list[Said] = []
    for draining in ledger.draining:
        in_flight = active(snapshot.gateway, uid, draining.revision)
        unrouted = snapshot.routes is None or snapshot.routes.weight(draining.revision) == 0
        obeyed = unrouted and confirmed(snapshot.gateway, uid, ledger.serial, draining.since, now)
        late = now - draining.since > DRAIN_TIMEOUT_SECONDS
        carries = not able(snapshot, ledger.stable) and able(snapshot, draining.revision)
        never_ran = snapshot.workloads.get(draining.revision) is None
        if carries or not (never_ran or (obeyed and in_flight == 0) or late):
            continue
        if late and in_flight != 0:
            words = f"{in_flight if in_flight is not None else 'An unknown number of'} requests were cut after {DRAIN_TIMEOUT_SECONDS:.0f} s"
            said.append(Said("DrainTimeout", f"{draining.revision}: {words}", warning=True))
        ledger = ledger.without_draining(draining.revision)
    return ledger, tuple(said)


RULES: tuple[Rule, ...] = (_first, _heard, _settled, _begun, _learnt, _condemned, _clocked, _paused, _stepped, _drained)


# What the rules are made of.


def _wanted(snapshot: Snapshot) -> str | None:
    return snapshot.wanted.revision.name if isinstance(snapshot.wanted, Wanted) else None


def _short(snapshot: Snapshot, revision: str | None) -> str:
    """A revision as people know it: its version, and its name."""
    known = snapshot.revisions.get(revision or "")
    if known is None and isinstance(snapshot.wanted, Wanted) and snapshot.wanted.revision.name == revision:
        known = snapshot.wanted.revision
    return f"v{known.version} ({known.name})" if known else str(revision)


def _refuse(ledger: Ledger, snapshot: Snapshot, now: float, outcome: str, reason: str, message: str) -> Turn:
    assert ledger.release is not None
    release, candidate = ledger.release, ledger.release.candidate
    step = step_of(release)
    refused = Refused(
        candidate, outcome, reason, message, now, step, release.evidence.stable, release.evidence.candidate
    )
    ledger = ledger.with_refused(refused).with_draining(candidate, now)
    ledger = replace(ledger, release=None).ended(candidate, outcome, message, now)
    return ledger, (Said(outcome, f"{_short(snapshot, candidate)} is refused: {message}", warning=True),)


def _promote(ledger: Ledger, snapshot: Snapshot, now: float, said: tuple[Said, ...]) -> Turn:
    assert ledger.release is not None
    assert ledger.stable is not None
    candidate, before = ledger.release.candidate, ledger.stable
    verdict = judged(ledger, snapshot)
    message = verdict.message if verdict and ledger.release.policy else "Ready, and no rollout policy asks for more"
    ledger = replace(ledger, stable=candidate, stable_proven=True, release=None)
    ledger = ledger.with_draining(before, now).ended(candidate, "Promoted", message, now)
    return ledger, (*said, Said("Promoted", f"{_short(snapshot, candidate)} is stable: {message}"))


def _obstacle(ledger: Ledger, snapshot: Snapshot) -> Paused | None:
    """What keeps the steps from moving, apart from the steps themselves."""
    release, policy = ledger.release, snapshot.policy
    if release is None:
        return None
    if release.policy and policy is None:
        return Paused("PolicyMissing", f"The rollout {release.policy} is gone: create it again, or abort, or go back")
    if policy and policy.spec.paused:
        return Paused("PausedByUser", "Paused by spec.paused of the rollout; the guard stays on")
    if not able(snapshot, release.candidate) or not (release.ready_once or complete(snapshot, release.candidate)):
        problem = problem_of(snapshot.workloads.get(release.candidate))
        return Paused(problem.reason, f"The candidate is not ready: {problem.message}")
    if release.policy and not able(snapshot, ledger.stable):
        return Paused(
            "StableNotReady",
            "Stable cannot answer: the candidate has the traffic that can be answered, and nothing is decided",
        )
    if release.policy and release.evidence.stable_unhealthy:
        return Paused(
            "StableUnhealthy", "Stable itself fails more than half of its requests: nothing is decided until it heals"
        )
    return None


def _pause(ledger: Ledger, snapshot: Snapshot, now: float) -> Paused | None:
    release, policy = ledger.release, snapshot.policy
    assert release is not None
    obstacle = _obstacle(ledger, snapshot)
    if obstacle and obstacle.reason in ("PolicyMissing", "PausedByUser"):
        return obstacle
    if obstacle:
        deadline = policy.spec.progress_deadline_seconds if policy else DEFAULT_PROGRESS_DEADLINE_SECONDS
        since = release.clock_stopped_at if release.clock_stopped_at is not None else now
        return Paused("ProgressDeadlineExceeded", obstacle.message) if now - since >= deadline else None
    deadline = policy.spec.step_deadline_seconds if policy else DEFAULT_STEP_DEADLINE_SECONDS
    if not release.ready_once or now - release.step_started_at < deadline or not _waits_for_data(release):
        return None
    return Paused("StepDeadlineExceeded", f"{_describe_now(release, snapshot)} (for longer than {deadline:.0f} s)")


def _waits_for_data(release: Release) -> bool:
    """True while a step waits for somebody else: requests, proof, or gateways that have not confirmed a weight."""
    if release.step >= len(release.steps):
        return bool(release.policy)
    pause = release.steps[release.step].pause
    return pause is None or pause.requests is not None


def _describe_now(release: Release, snapshot: Snapshot) -> str:
    if release.step >= len(release.steps):
        return _end_of_steps(release, snapshot)
    return _describe_step(release, release.steps[release.step])


def _describe_step(release: Release, step: Step) -> str:
    if step.set_weight is not None:
        return f"Setting the weight to {step.set_weight:g}%"
    assert step.pause is not None
    if step.pause.requests is not None:
        return f"waiting for {step.pause.requests} candidate requests, {_step_requests(release)} so far"
    return f"waiting {step.pause.seconds} s at {release.weight / 100:g}%"


def _end_of_steps(release: Release, snapshot: Snapshot) -> str:
    if not complete(snapshot, release.candidate):
        return "waiting until every pod of the candidate is ready"
    if release.awaited_requests is not None:
        return f"waiting for the answers to {release.awaited_requests} candidate requests, {release.evidence.candidate.answered} so far"
    verdict = evidence_of.judge(release.evidence, analysis_of(snapshot))
    return f"waiting for proof that the candidate is no worse. {verdict.message}"


def _done(ledger: Ledger, release: Release, step: Step, snapshot: Snapshot, now: float) -> bool:
    """True when the step at hand is complete: a weight when every gateway obeys it, a pause when it is over."""
    if step.set_weight is not None:
        routed = snapshot.routes is not None and snapshot.routes.weight(release.candidate) == release.weight
        return routed and confirmed(snapshot.gateway, snapshot.program.uid, ledger.serial, release.step_started_at, now)
    assert step.pause is not None
    if step.pause.requests is not None:
        return _step_requests(release) >= step.pause.requests
    return now - release.step_started_at >= (step.pause.seconds or 0)


def _at_step(release: Release, snapshot: Snapshot, step: int, now: float) -> Release:
    workload = snapshot.workloads.get(release.candidate)
    return replace(
        release,
        step=step,
        step_started_at=now,
        step_started_requests=release.evidence.candidate.requests,
        step_started_crashes=workload.crashes if workload else 0,
        clock_stopped_at=None,
    )


def _step_requests(release: Release) -> int:
    return release.evidence.candidate.requests - release.step_started_requests


def _may_promote(release: Release, snapshot: Snapshot) -> bool:
    if not release.policy:
        return True
    analysis = analysis_of(snapshot)
    verdict = evidence_of.judge(release.evidence, analysis).verdict
    return verdict is Verdict.NO_WORSE or (
        verdict is Verdict.UNDECIDED and analysis.on_undecided is OnUndecided.PROMOTE
    )


def _basis_points(percent: float) -> int:
    return min(math.floor(percent * TOTAL_WEIGHT / 100 + 0.5), TOTAL_WEIGHT)
