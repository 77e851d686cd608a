"""Carries out a plan: the ledger first, then weight taken from a candidate, then everything else in order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dspy_contract.logs import Logger
from dspy_contract.routes import Routes
from dspy_kube.client import APPLY, MERGE, UNREACHABLE, ApiException, ConflictException, Kube, NotFoundException, Object
from dspy_kube.store import Store
from dspy_operator.api.names import FIELD_MANAGER, MANAGED_BY_LABEL, STABLE_ANNOTATION
from dspy_operator.api.reasons import Reason
from dspy_operator.api.times import precise
from dspy_operator.domain.actions import (
    Action,
    ApplyService,
    CreateRevision,
    Delete,
    KeepLostLedger,
    MarkStable,
    ServeRevision,
    WriteRoutes,
)
from dspy_operator.domain.plan import Plan, RolloutStatus
from dspy_operator.domain.snapshot import Program, name_taken
from dspy_operator.errors import InvalidSpecError
from dspy_operator.kube.events import emit
from dspy_operator.kube.paths import path
from dspy_operator.resources import program as manifests
from dspy_operator.resources.revision import scaled

log = Logger(__name__)


class Executor:
    """Writes to the API. Every method raises what the API answers; the queue's worker knows what that means."""

    def __init__(self, kube: Kube, store: Store) -> None:
        self._kube = kube
        self._store = store

    async def execute(self, program: Program, plan: Plan, now: float) -> None:
        """Carries out a plan whose ledger is written. An action that fails does not hold independent ones.

        Raises the first failure at the end; a conflict, which says that the plan is out of date, at once.
        """
        for action in plan.urgent:
            await self._act(program, action)
        for event in plan.events:
            await emit(self._kube, program, event, now)
        failures: list[Exception] = []
        for action in plan.actions:
            try:
                await self._act(program, action)
            except ConflictException:
                raise
            except (ApiException, InvalidSpecError, *UNREACHABLE) as error:
                failures.append(error)
        for rollout in plan.rollouts:
            await self.write_rollout(program.namespace, rollout)
        if failures:
            raise failures[0]

    async def dry_run(self, deployment: Mapping[str, Any]) -> None:
        """Shows a Deployment to the API. Raises InvalidSpecError with its own words for what it refuses."""
        manifest = scaled(deployment, 1)
        namespace = manifest["metadata"]["namespace"]
        try:
            await self._kube.request("POST", path("Deployment", namespace), {**_MANAGER, "dryRun": "All"}, manifest)
        except ConflictException:
            return
        except ApiException as error:
            if error.status in (400, 403, 422):
                raise InvalidSpecError(Reason.INVALID_POD, api_message(error)) from error
            raise

    async def write_status(self, program: Program, status: Mapping[str, Any]) -> None:
        """Replaces the program's status; a program that has changed since it was read refuses with 409."""
        body = {"metadata": {"resourceVersion": program.resource_version}, "status": _replacing(program.status, status)}
        await self._kube.request(
            "PATCH", path("DSPyProgram", program.namespace, program.name, "status"), _MANAGER, body, MERGE
        )

    async def write_rollout(self, namespace: str, rollout: RolloutStatus) -> None:
        """Replaces a rollout's status. It is a projection: when it is late, the next pass writes it."""
        body = {
            "metadata": {"resourceVersion": rollout.resource_version},
            "status": _replacing(rollout.before, rollout.status),
        }
        try:
            await self._kube.request(
                "PATCH", path("DSPyRollout", namespace, rollout.name, "status"), _MANAGER, body, MERGE
            )
        except (ConflictException, NotFoundException):
            log.debug("A rollout's status changed or went meanwhile", namespace=namespace, rollout=rollout.name)

    async def apply(self, manifest: Object, create: bool) -> None:
        """Server-side apply; with `create`, a POST first, so that an object that is not ours is left alone."""
        kind, namespace, name = manifest["kind"], manifest["metadata"]["namespace"], manifest["metadata"]["name"]
        if create and not await self._create(manifest):
            await self._check_owned(manifest)
        query = {**_MANAGER, "force": True}
        applied = await self._kube.request("PATCH", path(kind, namespace, name), query, manifest, APPLY)
        self._store.put(kind, applied)

    async def delete(self, kind: str, namespace: str, name: str, uid: str | None = None) -> None:
        """Deletes an object and, in the background, what it owns. With a uid, that very object and no namesake."""
        body: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            await self._kube.request("DELETE", path(kind, namespace, name), None, body)
        except NotFoundException:
            return

    async def _act(self, program: Program, action: Action) -> None:
        match action:
            case KeepLostLedger(content):
                await self._create(manifests.lost_ledger(program, content))
            case CreateRevision(desired):
                await self._create_owned(dict(desired.manifest))
            case ServeRevision(revision, replicas, create):
                await self.apply(dict(revision.service), create)
                await self.apply(scaled(revision.deployment, replicas), create)
            case WriteRoutes(routes, version):
                await self._write_routes(program, routes, version)
            case ApplyService(port, create):
                await self.apply(manifests.service(program, port), create)
            case MarkStable(revision_name, at):
                body = {"metadata": {"annotations": {STABLE_ANNOTATION: precise(at)}}}
                await self._kube.request(
                    "PATCH", path("Deployment", program.namespace, revision_name), _MANAGER, body, MERGE
                )
            case Delete(kind, name, uid):
                await self.delete(kind, program.namespace, name, uid)

    async def _write_routes(self, program: Program, routes: Routes, version: str | None) -> None:
        """Writes routes over the version that they were derived from: 409 when somebody, the guard, was first."""
        manifest = manifests.routes(program, routes)
        if version is not None:
            manifest["metadata"]["resourceVersion"] = version
        await self.apply(manifest, create=version is None)

    async def _create_owned(self, manifest: Object) -> None:
        if not await self._create(manifest):
            await self._check_owned(manifest)

    async def _create(self, manifest: Object) -> bool:
        try:
            await self._kube.request(
                "POST", path(manifest["kind"], manifest["metadata"]["namespace"]), _MANAGER, manifest
            )
        except ConflictException:
            return False
        return True

    async def _check_owned(self, manifest: Object) -> None:
        """Raises InvalidSpecError when the object that has this name belongs to somebody else."""
        kind, namespace, name = manifest["kind"], manifest["metadata"]["namespace"], manifest["metadata"]["name"]
        found = await self._kube.request("GET", path(kind, namespace, name))
        ours = {owner["uid"] for owner in manifest["metadata"].get("ownerReferences", ())}
        theirs = {owner["uid"] for owner in found["metadata"].get("ownerReferences", ())}
        managed = found["metadata"].get("labels", {}).get(MANAGED_BY_LABEL) == FIELD_MANAGER
        if ours != theirs or not managed:
            raise InvalidSpecError(Reason.NAME_TAKEN, name_taken(f"{kind} {name}").message)


_MANAGER = {"fieldManager": FIELD_MANAGER}


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
