"""The preview of a blue-green release: a Service and routes of its own, which lead to the candidate whatever its
weight. Pure.

To the gateways it is a program of its own, so nothing that goes through it is counted as traffic. It has a port while
the policy in force is blue-green, or the release began under one; without a release nobody answers there.
"""

from __future__ import annotations

from dataclasses import replace

from dspy_contract.routes import TOTAL_WEIGHT, Backend, Routes, preview_of, routes_name
from dspy_operator.domain.actions import Action, ApplyService, Delete, RepairService, WriteRoutes
from dspy_operator.domain.ledger import Ledger
from dspy_operator.domain.snapshot import Preview, Snapshot


def preview_actions(snapshot: Snapshot, ledger: Ledger) -> tuple[Action, ...]:
    """What brings the preview to be, or takes it away."""
    name, preview = preview_of(snapshot.program.name), snapshot.preview
    if preview.port is None:
        service = (Delete("Service", name),) if preview.service_port is not None else ()
        routes = (Delete("ConfigMap", routes_name(name)),) if preview.routes_version is not None else ()
        return (*service, *routes)
    return (*_routes(snapshot, ledger, name), *_service(name, preview.port, preview))


def _routes(snapshot: Snapshot, ledger: Ledger, name: str) -> tuple[WriteRoutes, ...]:
    """Their serial is the ledger's: whatever changes the candidate raises that too. What somebody wrote over them is
    outdone by a greater one."""
    program, current = snapshot.program, snapshot.preview.routes
    candidate = snapshot.revision(ledger.release.candidate) if ledger.release else None
    timeout_seconds = candidate.timeout_seconds if candidate else program.spec.serving.timeout_seconds
    backends = (Backend(candidate.name, TOTAL_WEIGHT),) if candidate else ()
    desired = Routes(name, preview_of(program.uid), ledger.serial, timeout_seconds, backends)
    if current is not None:
        if replace(desired, serial=current.serial) == current:
            return ()
        desired = replace(desired, serial=max(ledger.serial, current.serial + 1))
    return (WriteRoutes(desired, snapshot.preview.routes_version),)


def _service(name: str, port: int, preview: Preview) -> tuple[ApplyService | RepairService, ...]:
    if preview.service_port != port:
        return (ApplyService(name, port, create=preview.service_port is None),)
    return (RepairService(name, port, preview.service_changed),) if preview.service_changed else ()
