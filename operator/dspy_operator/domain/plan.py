"""The plan: everything that one pass decides, as data. `execute` carries it out in this order and decides nothing.

First the ledger is written, then weight is taken from a candidate where it loses some, then the rest in order: create,
wait, shift, drain, delete. A plan after its own plan is empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dspy_contract.routes import TOTAL_WEIGHT, Backend, Routes
from dspy_operator.domain import release, status
from dspy_operator.domain.ledger import Ledger
from dspy_operator.domain.readiness import listening
from dspy_operator.domain.release import Said
from dspy_operator.domain.snapshot import Problem, Revision, Snapshot, Wanted

CHECKPOINT_SECONDS = 10.0
MOVING_SECONDS = 1.0
KEPT_REVISIONS = 10


@dataclass(frozen=True, slots=True)
class CreateRevision:
    """Creates a ControllerRevision after a dry run of its Deployment, whose refusal is the user's to read."""

    wanted: Wanted


@dataclass(frozen=True, slots=True)
class ServeRevision:
    """Brings a revision's Deployment and headless Service to be, with that many replicas."""

    revision: Revision
    replicas: int
    create: bool


@dataclass(frozen=True, slots=True)
class WriteRoutes:
    """Writes the routes of the program. `create` while there are none, so that a stranger's object is never taken
    over."""

    routes: Routes
    create: bool


@dataclass(frozen=True, slots=True)
class ApplyService:
    """Points the program's Service at its port of the gateway."""

    port: int
    create: bool


@dataclass(frozen=True, slots=True)
class MarkStable:
    """Notes on a revision's Deployment when it became stable."""

    revision: str
    at: float


@dataclass(frozen=True, slots=True)
class Delete:
    """Deletes an object of ours."""

    kind: str
    name: str


Action = CreateRevision | ServeRevision | WriteRoutes | ApplyService | MarkStable | Delete


@dataclass(frozen=True, slots=True)
class RolloutStatus:
    """A rollout's new status, and the one that it replaces."""

    name: str
    resource_version: str
    before: Mapping[str, Any]
    status: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do. `status` is None when it needs no write; `urgent` actions run first and alone."""

    ledger: Ledger
    status: Mapping[str, Any] | None = None
    urgent: tuple[Action, ...] = ()
    actions: tuple[Action, ...] = ()
    rollouts: tuple[RolloutStatus, ...] = ()
    said: tuple[Said, ...] = ()
    wake_after_seconds: float | None = None

    @property
    def empty(self) -> bool:
        """True when nothing is to be done."""
        return self.status is None and not (self.urgent or self.actions or self.rollouts or self.said)


def plan(snapshot: Snapshot, now: float) -> Plan:
    """What one pass decides for a program."""
    before = snapshot.program.ledger or release.recovered(snapshot, now)
    if snapshot.taken:
        return _refused(
            snapshot,
            before,
            Problem("NameTaken", f"{snapshot.taken} exists and is not ours: rename the program or delete it"),
            now,
        )
    ledger, said = release.advance(before, snapshot, now)
    if ledger.stable is None:
        problem = (
            snapshot.wanted
            if isinstance(snapshot.wanted, Problem)
            else Problem("Resolving", "The model is being looked up")
        )
        return _refused(snapshot, ledger, problem, now)
    routes = _routes(ledger, snapshot)
    ledger = replace(ledger, serial=routes.serial)
    return _assembled(snapshot, ledger, routes, said, now)


def moving(ledger: Ledger | None) -> bool:
    """True while gateways must be asked often: a release moves or something drains."""
    return ledger is not None and bool(ledger.release or ledger.draining)


def _assembled(snapshot: Snapshot, ledger: Ledger, routes: Routes, said: tuple[Said, ...], now: float) -> Plan:
    shift = _shift(snapshot, routes)
    urgent = shift if shift and _takes_weight(snapshot.routes, routes, ledger.stable) else ()
    needed = [name for name in (ledger.stable, ledger.release.candidate if ledger.release else None) if name]
    kept = [*needed, *(draining.revision for draining in ledger.draining)]
    actions = (
        *_creations(snapshot, needed),
        *(() if urgent else shift),
        *_service(snapshot),
        *_marks(snapshot, ledger, now),
        *_deletions(snapshot, kept),
    )
    ledger, new_status = status.program_status(snapshot, ledger, now, CHECKPOINT_SECONDS)
    rollouts = _rollouts(snapshot, ledger, now)
    wake = MOVING_SECONDS if moving(ledger) or snapshot.service_port is None else None
    return Plan(ledger, new_status, urgent, actions, rollouts, said, wake)


def _refused(snapshot: Snapshot, ledger: Ledger, problem: Problem, now: float) -> Plan:
    """Nothing serves and nothing can: the status says why."""
    content = status.refused_status(snapshot, ledger, problem, now)
    soon = problem.reason in ("Resolving", "NameTaken")
    return Plan(
        ledger, content, rollouts=_rollouts(snapshot, ledger, now), wake_after_seconds=MOVING_SECONDS if soon else None
    )


def _rollouts(snapshot: Snapshot, ledger: Ledger, now: float) -> tuple[RolloutStatus, ...]:
    return tuple(
        RolloutStatus(policy.name, policy.resource_version, policy.status, content)
        for policy, content in status.rollout_statuses(snapshot, ledger, now)
    )


def _routes(ledger: Ledger, snapshot: Snapshot) -> Routes:
    """The routes that the ledger asks for, under the serial they have or the next one."""
    program, known = snapshot.program, snapshot.routes
    candidate = ledger.release
    weight = candidate.weight if candidate else 0
    backends = [Backend(str(ledger.stable), TOTAL_WEIGHT - weight)]
    if candidate:
        backends.append(Backend(candidate.candidate, weight))
    backends += [Backend(draining.revision, 0) for draining in ledger.draining]
    revisions = [_revision(snapshot, backend.revision) for backend in backends]
    timeout = max(
        (revision.timeout_seconds for revision in revisions if revision), default=program.spec.serving.timeout_seconds
    )
    serial = max(ledger.serial, known.serial if known else 0)
    wanted = Routes(program.name, program.uid, serial, timeout, tuple(backends))
    return (
        wanted
        if known is not None and replace(known, serial=serial) == wanted and known.serial == serial
        else replace(wanted, serial=serial + 1)
    )


def _revision(snapshot: Snapshot, name: str) -> Revision | None:
    if name in snapshot.revisions:
        return snapshot.revisions[name]
    return (
        snapshot.wanted.revision
        if isinstance(snapshot.wanted, Wanted) and snapshot.wanted.revision.name == name
        else None
    )


def _shift(snapshot: Snapshot, routes: Routes) -> tuple[WriteRoutes, ...]:
    if snapshot.routes == routes:
        return ()
    return (WriteRoutes(routes, create=snapshot.routes is None),)


def _takes_weight(known: Routes | None, routes: Routes, stable: str | None) -> bool:
    """True when some revision other than the new stable loses weight: that never waits for anything."""
    return known is not None and any(
        routes.weight(backend.revision) < backend.weight for backend in known.backends if backend.revision != stable
    )


def _creations(snapshot: Snapshot, needed: list[str]) -> tuple[Action, ...]:
    actions: list[Action] = []
    for name in needed:
        revision = _revision(snapshot, name)
        if revision is None:
            continue
        if name not in snapshot.revisions and isinstance(snapshot.wanted, Wanted):
            actions.append(CreateRevision(snapshot.wanted))
        workload = snapshot.workloads.get(name)
        replicas = snapshot.program.spec.replicas
        if workload is None or not workload.has_service or workload.replicas != replicas:
            actions.append(ServeRevision(revision, replicas, create=workload is None))
    return tuple(actions)


def _service(snapshot: Snapshot) -> tuple[ApplyService, ...]:
    """The program's own Service, once its listener is open and whenever its port is another."""
    port = snapshot.gateway.port
    if port is None or snapshot.service_port == port or not listening(snapshot.gateway, snapshot.program.uid):
        return ()
    return (ApplyService(port, create=snapshot.service_port is None),)


def _marks(snapshot: Snapshot, ledger: Ledger, now: float) -> tuple[MarkStable, ...]:
    stable = snapshot.workloads.get(str(ledger.stable))
    newest = max((workload.promoted_at or 0.0 for workload in snapshot.workloads.values()), default=0.0)
    if stable is None or not ledger.stable_proven or (stable.promoted_at is not None and stable.promoted_at == newest):
        return ()
    return (MarkStable(str(ledger.stable), max(now, newest + 0.001)),)


def _deletions(snapshot: Snapshot, kept: list[str]) -> tuple[Delete, ...]:
    gone = [name for name in snapshot.workloads if name not in kept]
    old = sorted(
        (revision for revision in snapshot.revisions.values() if revision.name not in kept),
        key=lambda each: each.created,
    )
    surplus = old[: max(len(old) - KEPT_REVISIONS, 0)]
    return (
        *(Delete("Service", name) for name in gone),
        *(Delete("Deployment", name) for name in gone),
        *(Delete("ControllerRevision", revision.name) for revision in surplus),
    )
