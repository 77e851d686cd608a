"""Carries out a plan: the ledger first, then weight taken from a candidate, then everything else in order."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from dspy_contract.logs import Logger
from dspy_contract.routes import FIRST_PORT, Routes
from dspy_kube.client import (
    APPLY,
    MERGE,
    UNREACHABLE,
    ApiException,
    ConflictException,
    Kube,
    NotFoundException,
)
from dspy_kube.store import Store, StoreSink
from dspy_kube.watch import Watch
from dspy_operator.api.names import STABLE_ANNOTATION
from dspy_operator.api.reasons import Reason
from dspy_operator.api.times import precise
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
from dspy_operator.domain.plan import Plan, RolloutStatus
from dspy_operator.domain.snapshot import Program, Revision
from dspy_operator.domain.transition import Event
from dspy_operator.errors import InvalidSpecError, RetryError
from dspy_operator.kube.events import emit
from dspy_operator.kube.paths import path
from dspy_operator.kube.repairs import Repairs
from dspy_operator.kube.write import Writer, of_held
from dspy_operator.resources import program as manifests
from dspy_operator.resources.revision import archive_secret, disruption_budget, scaled

log = Logger(__name__)


class Executor:
    """Carries out the plans of programs. Every method raises what the API answers; the queue's worker knows what that
    means."""

    def __init__(
        self,
        kube: Kube,
        store: Store,
        writer: Writer,
        repairs: Repairs,
        archive: Callable[[Revision], bytes | None],
    ) -> None:
        """`archive` gets a revision's packed files, None while they are not at hand."""
        self._archive = archive
        self._kube = kube
        self._store = store
        self._writer = writer
        self._repairs = repairs

    async def execute(self, program: Program, plan: Plan, now: float) -> None:
        """Carries out a plan whose ledger is written. An action that fails does not hold independent ones.

        Raises the first failure at the end; a conflict, which says that the plan is out of date, at once. The events
        are those of the ledger that is written: they are told whatever becomes of the rest.
        """
        try:
            for action in plan.urgent:
                await self._act(program, action, now)
        finally:
            for event in plan.events:
                await emit(self._kube, program, event, now)
        failures: list[Exception] = []
        for action in plan.actions:
            try:
                await self._act(program, action, now)
            except ConflictException:
                raise
            except (ApiException, RetryError, *UNREACHABLE) as error:
                failures.append(error)
        for rollout in plan.rollouts:
            await self.write_rollout(program.namespace, rollout)
        if failures:
            raise failures[0]

    async def dry_run(self, deployment: Mapping[str, Any]) -> None:
        """Shows a Deployment to the API. Raises InvalidSpecError with its own words for what it refuses."""
        manifest = scaled(deployment, 1)
        try:
            await self._writer.send("POST", manifest, {"dryRun": "All"}, keep=False)
        except ConflictException:
            return
        except ApiException as error:
            if error.status in (400, 403, 422):
                raise InvalidSpecError(Reason.INVALID_POD, api_message(error)) from error
            raise

    async def dry_run_service(self, program: Program) -> None:
        """Shows the program's Service to the API, which knows whether somebody else's has that name."""
        manifest = manifests.service(program, program.name, FIRST_PORT)
        try:
            await self._writer.send("POST", manifest, {"dryRun": "All"}, keep=False)
        except ConflictException:
            await self._writer.adopt(program.name, manifest)

    async def list_rollouts(self, namespace: str) -> None:
        """Brings the store up to date with the namespace's rollouts."""
        sink = StoreSink(self._store, "DSPyRollout", namespace)
        await Watch(self._kube, path("DSPyRollout", namespace), {}, sink).list()

    async def write_status(self, program: Program, status: Mapping[str, Any]) -> None:
        """Replaces the program's status; a program that has changed since it was read refuses with 409."""
        body = {
            "metadata": {
                "namespace": program.namespace,
                "name": program.name,
                "resourceVersion": program.resource_version,
            },
            "status": _replacing(program.status, status),
        }
        await self._writer.send("PATCH", {"kind": "DSPyProgram", **body}, content_type=MERGE, subresource="status")

    async def write_rollout(self, namespace: str, rollout: RolloutStatus) -> None:
        """Replaces a rollout's status. It is a projection: when it is late, the next pass writes it."""
        body = {
            "metadata": {"namespace": namespace, "name": rollout.name, "resourceVersion": rollout.resource_version},
            "status": _replacing(rollout.before, rollout.status),
        }
        try:
            await self._writer.send("PATCH", {"kind": "DSPyRollout", **body}, content_type=MERGE, subresource="status")
        except (ConflictException, NotFoundException):
            log.debug("A rollout's status changed or went meanwhile", namespace=namespace, rollout=rollout.name)

    async def _act(self, program: Program, action: Action, now: float) -> None:
        match action:
            case KeepLostLedger(content):
                await self._writer.create(program.name, manifests.lost_ledger(program, content))
            case CreateRevision(desired):
                await self._writer.create(program.name, desired.manifest)
            case ServeRevision(revision, replicas, create):
                missing: RetryError | None = None
                if create and revision.archive_bytes:
                    try:
                        await self._serve_archive(program, revision)
                    except RetryError as error:  # the pods wait for it: nothing else does
                        missing = error
                await self._writer.apply(dict(revision.service), program.name, create)
                await self._writer.apply(scaled(revision.deployment, replicas), program.name, create)
                if replicas > 1:
                    await self._protect(program, revision)
                if missing:
                    raise missing
            case ServeArchive(revision):
                await self._serve_archive(program, revision)
            case Repair(kind, revision, replicas, changed):
                pinned = scaled(revision.deployment, replicas) if kind == "Deployment" else revision.service
                await self._repair(program, pinned, changed, now)
            case RepairService(name, port, changed):
                await self._repair(program, manifests.service(program, name, port), changed, now)
            case WriteRoutes(routes, version):
                await self._write_routes(program, routes, version)
            case ApplyService(name, port, create):
                await self._writer.apply(manifests.service(program, name, port), program.name, create)
            case MarkStable(revision_name, at):
                annotations = {STABLE_ANNOTATION: precise(at)}
                metadata = {"namespace": program.namespace, "name": revision_name, "annotations": annotations}
                await self._writer.send("PATCH", {"kind": "Deployment", "metadata": metadata}, content_type=MERGE)
            case Delete(kind, name, uid):
                await self._writer.delete(kind, program.namespace, name, uid)

    async def _repair(self, program: Program, manifest: Mapping[str, Any], changed: str, now: float) -> None:
        """Applies an object again, first in a way that makes the API server name who changed it."""
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        before = self._store.get(kind, program.namespace, name)
        if before is None or not self._repairs.is_due(before):
            return
        writer, manifest = "", of_held(before, manifest)
        try:
            await self._writer.send("PATCH", manifest, content_type=APPLY)
        except ConflictException as error:
            writer = f" ({api_message(error)})"
            await self._writer.send("PATCH", manifest, {"force": True}, content_type=APPLY)
        after = self._store.get(kind, program.namespace, name)
        selector = manifest["spec"].get("selector", {})
        if after is not None and kind == "Service" and after["spec"].get("selector") != selector:
            # Applying takes no label out of a selector that somebody else put in.
            spec = {"selector": _replacing(after["spec"].get("selector", {}), selector)}
            await self._writer.send(
                "PATCH", {"kind": kind, "metadata": manifest["metadata"], "spec": spec}, content_type=MERGE
            )
            after = self._store.get(kind, program.namespace, name)
        if after is not None and self._repairs.record(before, after):
            message = f"{kind} {name}: somebody changed {changed}, which is as it was again{writer}"
            await emit(self._kube, program, Event(Reason.REPAIRED, message, warning=True), now)

    async def _protect(self, program: Program, revision: Revision) -> None:
        deployment = self._store.get("Deployment", program.namespace, revision.name)
        budget = self._store.get("PodDisruptionBudget", program.namespace, revision.name)
        if deployment is not None and budget is None:
            await self._writer.apply(disruption_budget(revision, deployment), program.name, create=True)

    async def _write_routes(self, program: Program, routes: Routes, version: str | None) -> None:
        """Writes routes over the version that they were derived from: 409 when somebody, the guard, was first."""
        manifest = manifests.routes(program, routes)
        if version is not None:
            manifest["metadata"]["resourceVersion"] = version
        await self._writer.apply(manifest, program.name, create=version is None)

    async def _serve_archive(self, program: Program, revision: Revision) -> None:
        """Makes the Secret with a revision's files. One that is there is believed: the pod verifies what it loads.

        Raises RetryError while the registry does not give them.
        """
        owner = self._store.get("ControllerRevision", program.namespace, revision.name)
        archive = self._archive(revision)
        if owner is None or archive is None:
            raise RetryError(f"the files of {revision.name} are not at hand")
        try:
            await self._writer.send("POST", archive_secret(revision, owner, archive), keep=False)
        except ConflictException:
            return


def _replacing(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """A merge patch that turns `before` into `after`: what is gone is set to null, at every depth."""
    patch: dict[str, Any] = {name: None for name in before if name not in after}
    for name, value in after.items():
        previous = before.get(name)
        if isinstance(value, Mapping) and isinstance(previous, Mapping):
            patch[name] = _replacing(previous, value)
        else:
            patch[name] = value
    return patch


def api_message(error: ApiException) -> str:
    """The API's own sentence about why it refused."""
    try:
        return str(json.loads(error.body or "{}")["message"])
    except (ValueError, KeyError):
        return str(error.reason)
