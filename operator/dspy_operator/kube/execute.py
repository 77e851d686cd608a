"""Carries out a plan: the ledger first, then weight taken from a candidate, then everything else in order."""

from __future__ import annotations

import functools
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
    Object,
    is_gone,
)
from dspy_kube.store import Store, StoreSink
from dspy_kube.watch import Watch
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
from dspy_operator.kube import cache
from dspy_operator.kube.events import emit
from dspy_operator.kube.name_conflicts import NameConflicts
from dspy_operator.kube.paths import path
from dspy_operator.kube.repairs import Repairs
from dspy_operator.resources import program as manifests
from dspy_operator.resources.revision import archive_secret, disruption_budget, scaled

log = Logger(__name__)


class Executor:
    """Writes to the API, and puts every answer into the store. Every method raises what the API answers; the queue's
    worker knows what that means.

    A write that meets another object than it was made for reads that one object, and nothing else is ever read.
    """

    def __init__(
        self,
        kube: Kube,
        store: Store,
        on_conflict: Callable[[str, str], None],
        archive: Callable[[Revision], bytes | None],
        leads: Callable[[], bool],
    ) -> None:
        """`on_conflict` hears of a namespace and a program (empty for a gateway) of which a name is taken; `archive`
        gets a revision's packed files, None while they are not at hand; `leads` is true while this process may write:
        one that stood still in the midst of a pass writes nothing more when another has taken over."""
        self._archive = archive
        self._leads = leads
        self._kube = kube
        self._store = store
        self.repairs = Repairs()
        self.conflicts = NameConflicts(store.get, self._read, on_conflict)

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

        `owner` is the program that the object belongs to; empty for a namespace's gateway. An object that is held is
        applied as that very one: ConflictException for a namesake, and for one that went.
        """
        if create and not await self._create(owner, manifest):
            return
        metadata = manifest["metadata"]
        held = self._store.get(manifest["kind"], metadata["namespace"], metadata["name"])
        await self._send("PATCH", _of(held, manifest), {"force": True}, content_type=APPLY)

    async def delete(self, kind: str, namespace: str, name: str, uid: str | None = None) -> None:
        """Deletes an object and, in the background, what it owns. With a uid, that very object and no namesake."""
        body: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        held = self._store.get(kind, namespace, name)
        self._check_lease()
        try:
            answer = await self._kube.request("DELETE", path(kind, namespace, name), None, body)
        except NotFoundException as error:
            if not is_gone(error):
                raise
            answer = {}
        if (answer.get("metadata") or {}).get("deletionTimestamp"):
            self._keep(kind, answer)
        else:
            self._store.drop(kind, held)

    async def _act(self, program: Program, action: Action, now: float) -> None:
        match action:
            case KeepLostLedger(content):
                await self._create(program.name, manifests.lost_ledger(program, content))
            case CreateRevision(desired):
                await self._create(program.name, desired.manifest)
            case ServeRevision(revision, replicas, create):
                missing: RetryError | None = None
                if create and revision.archive_bytes:
                    try:
                        await self._serve_archive(program, revision)
                    except RetryError as error:  # the pods wait for it: nothing else does
                        missing = error
                await self.apply(dict(revision.service), program.name, create)
                await self.apply(scaled(revision.deployment, replicas), program.name, create)
                if replicas > 1:
                    await self._protect(program, revision)
                if missing:
                    raise missing
            case ServeArchive(revision):
                await self._serve_archive(program, revision)
            case Repair(kind, revision, replicas, changed):
                pinned = scaled(revision.deployment, replicas) if kind == "Deployment" else revision.service
                await self._repair(program, pinned, changed, now)
            case RepairService(port, changed):
                await self._repair(program, manifests.service(program, port), changed, now)
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

    async def _repair(self, program: Program, manifest: Mapping[str, Any], changed: str, now: float) -> None:
        """Applies an object again, first in a way that makes the API server name who changed it."""
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        before = self._store.get(kind, program.namespace, name)
        if before is None or not self.repairs.is_due(before):
            return
        writer, manifest = "", _of(before, manifest)
        try:
            await self._send("PATCH", manifest, content_type=APPLY)
        except ConflictException as error:
            writer = f" ({api_message(error)})"
            await self._send("PATCH", manifest, {"force": True}, content_type=APPLY)
        after = self._store.get(kind, program.namespace, name)
        selector = manifest["spec"].get("selector", {})
        if after is not None and kind == "Service" and after["spec"].get("selector") != selector:
            # Applying takes no label out of a selector that somebody else put in.
            spec = {"selector": _replacing(after["spec"].get("selector", {}), selector)}
            await self._send(
                "PATCH", {"kind": kind, "metadata": manifest["metadata"], "spec": spec}, content_type=MERGE
            )
            after = self._store.get(kind, program.namespace, name)
        if after is not None and self.repairs.record(before, after):
            message = f"{kind} {name}: somebody changed {changed}, which is as it was again{writer}"
            await emit(self._kube, program, Event(Reason.REPAIRED, message, warning=True), now)

    async def _protect(self, program: Program, revision: Revision) -> None:
        deployment = self._store.get("Deployment", program.namespace, revision.name)
        budget = self._store.get("PodDisruptionBudget", program.namespace, revision.name)
        if deployment is not None and budget is None:
            await self.apply(disruption_budget(revision, deployment), program.name, create=True)

    async def _write_routes(self, program: Program, routes: Routes, version: str | None) -> None:
        """Writes routes over the version that they were derived from: 409 when somebody, the guard, was first."""
        manifest = manifests.routes(program, routes)
        if version is not None:
            manifest["metadata"]["resourceVersion"] = version
        await self.apply(manifest, program.name, create=version is None)

    async def _serve_archive(self, program: Program, revision: Revision) -> None:
        """Makes the Secret with a revision's files. One that is there is believed: the pod verifies what it loads.

        Raises RetryError while the registry does not give them.
        """
        owner = self._store.get("ControllerRevision", program.namespace, revision.name)
        archive = self._archive(revision)
        if owner is None or archive is None:
            raise RetryError(f"the files of {revision.name} are not at hand")
        try:
            await self._send("POST", archive_secret(revision, owner, archive), keep=False)
        except ConflictException:
            return

    async def _create(self, owner: str, manifest: Mapping[str, Any]) -> bool:
        """Creates an object, or adopts one of ours. False when somebody else's has its name."""
        metadata = manifest["metadata"]
        if self.conflicts.contains(metadata["namespace"], owner, manifest["kind"], metadata["name"]):
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
        if not _is_ours(manifest, found):
            log.warning("A name is taken", namespace=metadata["namespace"], kind=kind, name=metadata["name"])
            is_ours = functools.partial(_is_ours, manifest)
            self.conflicts.record(metadata["namespace"], owner, kind, metadata["name"], is_ours)
            return False
        if _labelled(manifest, found):
            self._keep(kind, found)
        else:
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
        self._check_lease()
        try:
            answer = await self._kube.request(
                method, place, {**_MANAGER, **(query or {})}, dict(manifest), content_type
            )
        except ApiException as error:
            uid = manifest["metadata"].get("uid")
            if method == "POST" or not (error.status == 409 or (error.status == 422 and uid)):
                raise
            found = await self._read(kind, namespace, name)
            if error.status == 422 and found is not None and found["metadata"]["uid"] != uid:
                raise ConflictException(status=409, reason="another object has its name") from error
            raise
        if keep:
            self._keep(kind, answer, quiet=subresource == "status")

    def _check_lease(self) -> None:
        if not self._leads():
            raise RetryError("this process holds its Lease no more")

    async def _read(self, kind: str, namespace: str, name: str) -> Object | None:
        """One object that may be another than the store holds; what it holds of one that is gone, it drops."""
        held = self._store.get(kind, namespace, name)
        try:
            found = await self._kube.request("GET", path(kind, namespace, name))
        except NotFoundException as error:
            if not is_gone(error):
                raise
            self._store.drop(kind, held)
            return None
        if held is not None:
            if found["metadata"]["uid"] != held["metadata"]["uid"]:
                self._store.drop(kind, held)
            self._keep(kind, found)
        return found

    def _keep(self, kind: str, item: Object, quiet: bool = False) -> None:
        """Puts an object into the store, unless no watch would ever tell what becomes of it.

        A status that a pass has written wakes no other: it was decided by what that pass knows.
        """
        if cache.selects(kind, item):
            self._store.put(kind, item, quiet)
        else:
            self._store.forget(kind, item)


def _of(held: Object | None, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """The manifest for the very object that is held: the API server refuses it for a namesake (422), and for one that
    went (409)."""
    if held is None:
        return manifest
    return {**manifest, "metadata": {**manifest["metadata"], "uid": held["metadata"]["uid"]}}


def _is_ours(manifest: Mapping[str, Any], found: Object) -> bool:
    """True for an object that was made as this one: by its owner, or where it has none by its labels."""
    return _owners(found) == _owners(manifest) and (bool(_owners(manifest)) or _labelled(manifest, found))


def _labelled(manifest: Mapping[str, Any], found: Object) -> bool:
    labels = found["metadata"].get("labels") or {}
    return all(labels.get(name) == value for name, value in manifest["metadata"]["labels"].items())


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
