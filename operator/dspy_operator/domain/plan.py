"""The plan: everything that one pass decides, as data. `execute` carries it out in this order and decides nothing.

First the ledger is written, then weight is taken from a candidate where it loses some, then the rest in order: create,
wait, shift, drain, delete. A plan after its own plan is empty.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dspy_contract.routes import Conversations, ReleaseRef, Routes
from dspy_operator.api.program import Permission
from dspy_operator.api.reasons import Reason
from dspy_operator.domain import status
from dspy_operator.domain.actions import (
    Action,
    ApplyService,
    CreateRevision,
    Delete,
    KeepLostLedger,
    MarkStable,
    Repair,
    RepairService,
    ServeArchive,
    ServeRevision,
    WriteRoutes,
)
from dspy_operator.domain.following import newest_serial, with_all_at_stable
from dspy_operator.domain.ledger import Ledger, Release
from dspy_operator.domain.preview import preview_actions
from dspy_operator.domain.readiness import can_serve, listening, release_needs
from dspy_operator.domain.recovery import recover_ledger
from dspy_operator.domain.release.progress import next_pass_seconds
from dspy_operator.domain.release.rules import advance
from dspy_operator.domain.snapshot import Problem, Program, Snapshot, Standstill, Workload
from dspy_operator.domain.targets import Target, targets_of
from dspy_operator.domain.transition import Event

MOVING_SECONDS = 1.0
"""How soon a program has another pass where something moves: a revision drains, or something was decided just now."""

UNREADY_SECONDS = 5.0
"""How often a program whose stable cannot serve, or of which somebody changed an object, is looked at: what its pods
wait for may show by time alone, and an object is not repaired twice within a minute."""

KEPT_REVISIONS = 10


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
    events: tuple[Event, ...] = ()
    wake_after_seconds: float | None = None

    @property
    def empty(self) -> bool:
        """True when nothing is to be done."""
        return self.status is None and not (self.urgent or self.actions or self.rollouts or self.events)


def plan(snapshot: Snapshot, now: float) -> Plan:
    """What one pass decides for a program."""
    if snapshot.program.newer_version is not None:
        return _hands_off(snapshot, snapshot.program.newer_version, now)
    stored = snapshot.program.ledger or recover_ledger(snapshot, now)
    snapshot = replace(snapshot, program=replace(snapshot.program, ledger=stored))
    ledger, events = advance(stored, snapshot, now)
    if snapshot.program.lost:
        events = (
            Event(Reason.LEDGER_LOST, f"status.release could not be read: {snapshot.program.lost}", True),
            *events,
        )
    events = (*events, *(_stood_still(snapshot, each) for each in snapshot.standstills))
    if snapshot.forgotten:
        words = "Every pod has forgotten the answers that it kept"
        events = (*events, Event(Reason.ANSWERS_FORGOTTEN, words))
    if ledger.stable is None:
        desired = snapshot.desired if isinstance(snapshot.desired, Problem) else status.RESOLVING
        problem = snapshot.conflict or desired
        return _refused(snapshot, ledger, problem, now)
    targets = targets_of(ledger, snapshot.program.spec.replicas)
    routes = _desired_routes(snapshot, ledger, targets)
    ledger = replace(ledger, serial=routes.serial)
    return _assembled(snapshot, ledger, targets, routes, events, now)


def _stood_still(snapshot: Snapshot, told: Standstill) -> Event:
    blocks = f"its program blocks the event loop at {told.place}"
    why = blocks if told.place else "no line of its program did it, so its node may lack CPU"
    message = f"{snapshot.label(told.revision)} held up all requests of a pod for {told.seconds:.1f} s: {why}"
    return Event(Reason.EVENT_LOOP_BLOCKED, message, warning=True)


def needs_polling(ledger: Ledger | None) -> bool:
    """True while gateways must be asked often: a release moves or something drains."""
    return ledger is not None and bool(ledger.release or ledger.draining)


def starts_release(before: Ledger | None, after: Ledger) -> bool:
    """True for a decision that lets another revision than stable begin: the policy must be known for sure."""
    if before is None or before.stable is None:
        return False
    began = after.release is not None and (before.release is None or before.release.id != after.release.id)
    return began or after.stable != before.stable


def _hands_off(snapshot: Snapshot, version: int, now: float) -> Plan:
    """A newer operator's ledger: nothing of it is touched, and its candidates lose their weight."""
    routes = snapshot.routes
    message = f"status.release was written by a newer operator (version {version}): upgrade this one"
    held = status.held_status(snapshot.program, Problem(Reason.LEDGER_TOO_NEW, message), now)
    if routes is not None and routes.tries_candidates:
        newest = newest_serial(snapshot.gateway.states.values(), routes.uid, routes)
        lowered = with_all_at_stable(routes, newest)
        return Plan(Ledger(), held, _write_routes(snapshot, lowered))
    return Plan(Ledger(), held)


def _assembled(
    snapshot: Snapshot,
    ledger: Ledger,
    targets: tuple[Target, ...],
    routes: Routes,
    events: tuple[Event, ...],
    now: float,
) -> Plan:
    write = _write_routes(snapshot, routes)
    urgent = write if write and _lowers(snapshot.routes, routes, ledger.stable) else ()
    actions = (
        *_kept_ledger(snapshot),
        *_creations(snapshot, targets),
        *(() if urgent else write),
        *_service(snapshot),
        *preview_actions(snapshot, ledger),
        *_mark_stable(snapshot, ledger, now),
        *_deletions(snapshot, ledger, [target.revision for target in targets]),
    )
    decided = replace(snapshot, program=replace(snapshot.program, ledger=ledger))
    ledger, new_status = status.program_status(decided, ledger, now)
    rollouts = _rollouts(decided, ledger, now)
    wake = _wake_after_seconds(snapshot, ledger, bool(events))
    return Plan(ledger, new_status, urgent, actions, rollouts, events, wake)


def _wake_after_seconds(snapshot: Snapshot, ledger: Ledger, decided: bool) -> float | None:
    """When the next pass is due if nothing wakes it before; None when nothing shows by time alone."""
    # What was decided now may let something else be decided.
    if decided or ledger.draining or snapshot.service_port is None:
        return MOVING_SECONDS
    if ledger.release:
        return next_pass_seconds(ledger, ledger.release, snapshot)
    return None if can_serve(snapshot, ledger.stable) and _is_unchanged(snapshot) else UNREADY_SECONDS


def _refused(snapshot: Snapshot, ledger: Ledger, problem: Problem, now: float) -> Plan:
    """Nothing serves and nothing can: the status says why."""
    content = status.refused_status(snapshot, ledger, problem, now)
    soon = problem.reason in (Reason.RESOLVING, Reason.NAME_TAKEN)
    return Plan(
        ledger,
        content,
        rollouts=_rollouts(snapshot, ledger, now),
        wake_after_seconds=MOVING_SECONDS if soon else None,
    )


def _rollouts(snapshot: Snapshot, ledger: Ledger, now: float) -> tuple[RolloutStatus, ...]:
    return tuple(
        RolloutStatus(policy.name, policy.resource_version, policy.status, content)
        for policy, content in status.rollout_statuses(snapshot, ledger, now)
    )


def _desired_routes(snapshot: Snapshot, ledger: Ledger, targets: tuple[Target, ...]) -> Routes:
    """The routes that the targets ask for, under the serial they have or one greater than any that was seen."""
    program, current, release = snapshot.program, snapshot.routes, ledger.release
    revisions = [snapshot.revision(target.revision) for target in targets]
    timeouts = [revision.timeout_seconds for revision in revisions if revision]
    desired = Routes(
        program=program.name,
        uid=program.uid,
        serial=current.serial if current else 0,
        timeout_seconds=max(timeouts, default=program.spec.serving.timeout_seconds),
        backends=tuple(target.backend for target in targets),
        release=_release_ref(ledger, release) if release else None,
        refused=tuple(refused.revision for refused in ledger.refused),
        needs=release_needs(release, snapshot) if release else (),
        flags=release.flags if release else (),
        users=release.users if release else None,
        conversations=_conversations(program),
        releases=ledger.releases,
        pin=ledger.pin,
        forced=program.spec.routing.force_header is Permission.ALLOW,
        cached=snapshot.cached,
    )
    newest = newest_serial(snapshot.gateway.states.values(), program.uid, current)
    if current is not None and newest == current.serial and current == desired:
        return current
    return replace(desired, serial=ledger.serial if ledger.serial > newest else newest + 1)


def _conversations(program: Program) -> Conversations | None:
    kept = program.spec.routing.conversations
    if kept is None:
        return None
    cookie = kept.cookie
    by_cookie = (cookie.name or f"{program.name}-conversation", cookie.max_age_seconds) if cookie else ("", 0)
    return Conversations(kept.header or "", *by_cookie)


def _release_ref(ledger: Ledger, release: Release) -> ReleaseRef:
    epoch = max(each.evidence.epoch for each in release.each)
    return ReleaseRef(release.id, str(ledger.stable), release.candidates, epoch)


def _write_routes(snapshot: Snapshot, routes: Routes) -> tuple[WriteRoutes, ...]:
    return () if snapshot.routes == routes else (WriteRoutes(routes, snapshot.routes_version),)


def _lowers(current: Routes | None, routes: Routes, stable: str | None) -> bool:
    """True when some revision other than the new stable loses weight, or copies: that never waits for anything."""
    return current is not None and any(
        now.weight < before.weight or now.mirror < before.mirror
        for before, now in ((each, routes.backend(each.revision)) for each in current.backends)
        if before.revision != stable
    )


def _creations(snapshot: Snapshot, targets: tuple[Target, ...]) -> tuple[Action, ...]:
    actions: list[Action] = []
    for target in targets:
        revision = snapshot.revision(target.revision)
        if revision is None or target.replicas is None:
            continue
        made_of = snapshot.to_create(target.revision)
        if target.revision not in snapshot.revisions and made_of:
            actions.append(CreateRevision(made_of))
        workload = snapshot.workloads.get(target.revision)
        if workload is None or not _is_as_wanted(workload, target.replicas):
            actions.append(ServeRevision(revision, target.replicas, create=workload is None))
            continue
        if workload.archive_missing:
            actions.append(ServeArchive(revision))
        actions += [Repair(kind, revision, target.replicas, changed) for kind, changed in workload.changed.items()]
    return tuple(actions)


def _is_as_wanted(workload: Workload, replicas: int) -> bool:
    protected = workload.has_budget or replicas <= 1
    return workload.replicas == replicas and workload.service_uid is not None and protected


def _is_unchanged(snapshot: Snapshot) -> bool:
    changed = snapshot.service_changed or snapshot.preview.service_changed
    return not (changed or any(each.changed for each in snapshot.workloads.values()))


def _kept_ledger(snapshot: Snapshot) -> tuple[KeepLostLedger, ...]:
    """What could not be read is kept once, for a person: it is written over by the one that was found again."""
    if not snapshot.program.lost:
        return ()
    content = json.dumps(snapshot.program.status.get("release"), sort_keys=True, default=str)
    return (KeepLostLedger(content),)


def _service(snapshot: Snapshot) -> tuple[ApplyService | RepairService, ...]:
    """The program's own Service, once its listener is open and whenever it is another than it should be."""
    name, port = snapshot.program.name, snapshot.gateway.port
    if port is not None and snapshot.service_port == port:
        changed = snapshot.service_changed
        return (RepairService(name, port, changed),) if changed else ()
    if port is None or not listening(snapshot.gateway, snapshot.program.uid):
        return ()
    return (ApplyService(name, port, create=snapshot.service_port is None),)


def _mark_stable(snapshot: Snapshot, ledger: Ledger, now: float) -> tuple[MarkStable, ...]:
    stable = snapshot.workloads.get(str(ledger.stable))
    newest = max((workload.promoted_at or 0.0 for workload in snapshot.workloads.values()), default=0.0)
    if stable is None or not ledger.stable_proven or (stable.promoted_at is not None and stable.promoted_at == newest):
        return ()
    return (MarkStable(str(ledger.stable), max(now, newest + 0.001)),)


def _deletions(snapshot: Snapshot, ledger: Ledger, kept: list[str]) -> tuple[Delete, ...]:
    """Of what is not needed. Those that never served go first: nobody goes back to them."""
    gone = {name: workload for name, workload in snapshot.workloads.items() if name not in kept}
    old = sorted(
        (revision for revision in snapshot.revisions.values() if revision.name not in kept),
        key=lambda each: (each.name in ledger.served, each.created),
    )
    surplus = old[: max(len(old) - KEPT_REVISIONS, 0)]
    return (
        *(Delete("Service", name, each.service_uid) for name, each in gone.items() if each.service_uid is not None),
        *(Delete("Deployment", name, each.uid) for name, each in gone.items()),
        *(Delete("ControllerRevision", revision.name) for revision in surplus),
    )
