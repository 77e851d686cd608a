"""Writes objects: whatever the API answers is in the store, and an object of somebody else is left alone and noted."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from dspy_contract.logs import Logger
from dspy_kube.client import APPLY, MERGE, ApiException, ConflictException, Kube, NotFoundException, Object, is_gone
from dspy_kube.store import Store
from dspy_operator.api.names import FIELD_MANAGER
from dspy_operator.errors import RetryError
from dspy_operator.kube import cache
from dspy_operator.kube.name_conflicts import NameConflicts
from dspy_operator.kube.paths import path

_MANAGER = {"fieldManager": FIELD_MANAGER}
log = Logger(__name__)


class Writer:
    """Writes to the API, and puts every answer into the store. Every method raises what the API answers; the queue's
    worker knows what that means.

    A write that meets another object than it was made for reads that one object, and nothing else is ever read.
    """

    def __init__(
        self, kube: Kube, store: Store, on_conflict: Callable[[str, str], None], leads: Callable[[], bool]
    ) -> None:
        """`on_conflict` hears of a namespace and a program (empty for a gateway) of which a name is taken; `leads` is
        true while this process may write: one that stood still in the midst of a pass writes nothing more when another
        has taken over."""
        self._leads = leads
        self._kube = kube
        self._store = store
        self.conflicts = NameConflicts(store.get, self._read, on_conflict)

    async def apply(self, manifest: Object, owner: str = "", create: bool = False) -> None:
        """Server-side apply; with `create`, a POST first, so that an object that is not ours is left alone, and known.

        `owner` is the program that the object belongs to; empty for a namespace's gateway. An object that is held is
        applied as that very one: ConflictException for a namesake, and for one that went.
        """
        if create and not await self.create(owner, manifest):
            return
        metadata = manifest["metadata"]
        held = self._store.get(manifest["kind"], metadata["namespace"], metadata["name"])
        await self.send("PATCH", of_held(held, manifest), {"force": True}, content_type=APPLY)

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

    async def create(self, owner: str, manifest: Mapping[str, Any]) -> bool:
        """Creates an object, or adopts one of ours. False when somebody else's has its name."""
        metadata = manifest["metadata"]
        if self.conflicts.contains(metadata["namespace"], owner, manifest["kind"], metadata["name"]):
            return False
        try:
            await self.send("POST", manifest)
        except ConflictException:
            return await self.adopt(owner, manifest)
        return True

    async def adopt(self, owner: str, manifest: Mapping[str, Any]) -> bool:
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
            await self.send("PATCH", {"kind": kind, "metadata": names}, content_type=MERGE)
        return True

    async def send(
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


def of_held(held: Object | None, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
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
