"""Carries out a plan: the ledger first, then weight taken from a candidate, then everything else in order."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from dspy_contract.logs import Logger
from dspy_contract.routes import FIRST_PORT, Routes
from dspy_kube.client import APPLY, MERGE, UNREACHABLE, ApiException, ConflictException, Kube, NotFoundException, Object
from dspy_kube.store import Store
from dspy_operator.api.names import FIELD_MANAGER, STABLE_ANNOTATION
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
from dspy_operator.domain.snapshot import Program
from dspy_operator.errors import InvalidSpecError
from dspy_operator.kube.events import emit
from dspy_operator.kube.paths import path
from dspy_operator.kube.strangers import Strangers
from dspy_operator.resources import program as manifests
from dspy_operator.resources.revision import scaled

log = Logger(__name__)


class Executor:
    """Writes to the API, and puts every answer into the store. Every method raises what the API answers; the queue's
    worker knows what that means.

    A write that meets another object than it was made for reads that one object, and nothing else is ever read.
    """

    def __init__(self, kube: Kube, store: Store, met: Callable[[str, str], None]) -> None:
        """`met` hears of a namespace and a program (empty for a gateway) of which a name is taken."""
        self._kube = kube
        self._store = store
        self.strangers = Strangers(self._read, met)

    async def execute(self, program: Program, plan: Plan, now: float) -> None:
        """Carries out a plan whose ledger is written. An action that fails does not hold independent ones.

        Raises the first failure at the end; a conflict, which says that the plan is out of date, at once. The events
        are those of the ledger that is written: they are told whatever becomes of the rest.
        """
        try:
            for action in plan.urgent:
                await self._act(program, action)
        finally:
            for event in plan.events:
                await emit(self._kube, program, event, now)
        failures: list[Exception] = []
        for action in plan.actions:
            try:
                await self._act(program, action)
            except ConflictException:
                raise
            except (ApiException, *UNREACHABLE) as error:
                failures.append(error)
        for rollout in plan.rollouts:
            await self.write_rollout(program.namespace, rollout)
        if failures:
            raise failures[0]

    async def dry_run(self, deployment: Mapping[str, Any]) -> None:
        """Shows a Deployment to the API. Raises InvalidSpecError with its own words for what it refuses."""
        manifest = scaled(deployment, 1)
        try:
            await self._send("POST", manifest, {"dryRun": "All"}, keep=False)
        except ConflictException:
            return
        except ApiException as error:
            if error.status in (400, 403, 422):
                raise InvalidSpecError(Reason.INVALID_POD, api_message(error)) from error
            raise

    async def dry_run_service(self, program: Program) -> None:
        """Shows the program's Service to the API, which knows whether somebody else's has that name."""
        manifest = manifests.service(program, FIRST_PORT)
        try:
            await self._send("POST", manifest, {"dryRun": "All"}, keep=False)
        except ConflictException:
            await self._adopt(program.name, manifest)

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
        await self._send("PATCH", {"kind": "DSPyProgram", **body}, content_type=MERGE, subresource="status")

    async def write_rollout(self, namespace: str, rollout: RolloutStatus) -> None:
        """Replaces a rollout's status. It is a projection: when it is late, the next pass writes it."""
        body = {
            "metadata": {"namespace": namespace, "name": rollout.name, "resourceVersion": rollout.resource_version},
            "status": _replacing(rollout.before, rollout.status),
        }
        try:
            await self._send("PATCH", {"kind": "DSPyRollout", **body}, content_type=MERGE, subresource="status")
        except (ConflictException, NotFoundException):
            log.debug("A rollout's status changed or went meanwhile", namespace=namespace, rollout=rollout.name)

    async def apply(self, manifest: Object, owner: str = "", create: bool = False) -> None:
        """Server-side apply; with `create`, a POST first, so that an object that is not ours is left alone, and known.

        `owner` is the program that the object belongs to; empty for a namespace's gateway.
        """
        if not create or await self._create(owner, manifest):
            await self._send("PATCH", manifest, {"force": True}, content_type=APPLY)

    async def delete(self, kind: str, namespace: str, name: str, uid: str | None = None) -> None:
        """Deletes an object and, in the background, what it owns. With a uid, that very object and no namesake."""
        body: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            answer = await self._kube.request("DELETE", path(kind, namespace, name), None, body)
        except NotFoundException:
            self._store.deleted(kind, namespace, name, uid)
            return
        if (answer.get("metadata") or {}).get("deletionTimestamp"):
            self._store.put(kind, answer)
        else:
            self._store.deleted(kind, namespace, name, uid)

    async def _act(self, program: Program, action: Action) -> None:
        match action:
            case KeepLostLedger(content):
                await self._create(program.name, manifests.lost_ledger(program, content))
            case CreateRevision(desired):
                await self._create(program.name, desired.manifest)
            case ServeRevision(revision, replicas, create):
                await self.apply(dict(revision.service), program.name, create)
                await self.apply(scaled(revision.deployment, replicas), program.name, create)
            case WriteRoutes(routes, version):
                await self._write_routes(program, routes, version)
            case ApplyService(port, create):
                await self.apply(manifests.service(program, port), program.name, create)
            case MarkStable(revision_name, at):
                annotations = {STABLE_ANNOTATION: precise(at)}
                metadata = {"namespace": program.namespace, "name": revision_name, "annotations": annotations}
                await self._send("PATCH", {"kind": "Deployment", "metadata": metadata}, content_type=MERGE)
            case Delete(kind, name, uid):
                await self.delete(kind, program.namespace, name, uid)

    async def _write_routes(self, program: Program, routes: Routes, version: str | None) -> None:
        """Writes routes over the version that they were derived from: 409 when somebody, the guard, was first."""
        manifest = manifests.routes(program, routes)
        if version is not None:
            manifest["metadata"]["resourceVersion"] = version
        await self.apply(manifest, program.name, create=version is None)

    async def _create(self, owner: str, manifest: Mapping[str, Any]) -> bool:
        """Creates an object, or adopts one of ours. False when somebody else's has its name."""
        metadata = manifest["metadata"]
        if self.strangers.knows(metadata["namespace"], owner, manifest["kind"], metadata["name"]):
            return False
        try:
            await self._send("POST", manifest)
        except ConflictException:
            return await self._adopt(owner, manifest)
        return True

    async def _adopt(self, owner: str, manifest: Mapping[str, Any]) -> bool:
        """Takes an object of ours that was not known, and gives it back its labels, without which nobody sees it.

        False when the object that has this name belongs to somebody else, who is noted.
        """
        kind, metadata = manifest["kind"], manifest["metadata"]
        found = await self._read(kind, metadata["namespace"], metadata["name"])
        if found is None:
            raise ConflictException(status=409, reason="the object went while it was read")
        labels = found["metadata"].get("labels") or {}
        labelled = all(labels.get(name) == value for name, value in metadata["labels"].items())
        if _owners(found) != _owners(manifest) or not (labelled or _owners(manifest)):
            log.warning("A name is taken", namespace=metadata["namespace"], kind=kind, name=metadata["name"])
            self.strangers.note(metadata["namespace"], owner, kind, found)
            return False
        self._store.put(kind, found)
        if not labelled:
            names = {name: metadata[name] for name in ("namespace", "name", "labels")}
            await self._send("PATCH", {"kind": kind, "metadata": names}, content_type=MERGE)
        return True

    async def _send(
        self,
        method: str,
        manifest: Mapping[str, Any],
        query: Mapping[str, Any] | None = None,
        content_type: str | None = None,
        subresource: str = "",
        keep: bool = True,
    ) -> None:
        """One write. What it met instead, an object that is newer or gone, is in the store when it raises."""
        kind, namespace, name = manifest["kind"], manifest["metadata"]["namespace"], manifest["metadata"]["name"]
        place = path(kind, namespace, "" if method == "POST" else name, subresource)
        try:
            answer = await self._kube.request(
                method, place, {**_MANAGER, **(query or {})}, dict(manifest), content_type
            )
        except ConflictException:
            if method != "POST":
                await self._read(kind, namespace, name)
            raise
        except NotFoundException:
            self._store.deleted(kind, namespace, name)
            raise
        if keep:
            self._store.put(kind, answer)

    async def _read(self, kind: str, namespace: str, name: str) -> Object | None:
        """One object that the store does not hold as it is; what it holds of one that is gone, it forgets."""
        try:
            found = await self._kube.request("GET", path(kind, namespace, name))
        except NotFoundException:
            self._store.deleted(kind, namespace, name)
            return None
        if self._store.get(kind, namespace, name) is not None:
            self._store.put(kind, found)
        return found


def _owners(item: Mapping[str, Any]) -> set[str]:
    return {owner["uid"] for owner in item["metadata"].get("ownerReferences") or ()}


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
