"""An API server in memory: what the operator's client asks of a real one, with the shipped RBAC and faults on demand.

It keeps resourceVersions and generations, refuses with 403, 404, 409 and 410, splits status from spec, honours
preconditions and uids, removes what is owned, and lets watches follow. Server-side apply is a merge, which is what it
comes to while one manager owns an object.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dspy_kube.client import APPLY, ApiException, ConflictException, NotFoundException, Object

RBAC = Path(__file__).parents[2] / "manifests" / "base" / "rbac.yaml"
SYSTEM = "dspy-system"


@dataclass(frozen=True, slots=True)
class Call:
    """One request, as the API understands it."""

    verb: str
    group: str
    resource: str
    namespace: str
    name: str
    subresource: str

    @property
    def full(self) -> str:
        """The resource with its subresource, as rules name it."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


Fault = Callable[[Call, Mapping[str, Any]], ApiException | None]


def refusal(status: int, message: str) -> ApiException:
    """The exception that the client raises for a refusal."""
    kinds = {404: NotFoundException, 409: ConflictException}
    error = kinds.get(status, ApiException)(status=status, reason=message)
    error.body = json.dumps({"message": message})
    return error


class ApiServer:
    """The objects, and the `request` and `changes` of `dspy_kube.client.Kube`."""

    def __init__(self, clock: Callable[[], float] = lambda: 0.0, role: str = "dspy-operator") -> None:
        """`role` names the shipped role of whoever calls."""
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.history: list[tuple[float, str, Object]] = []
        """Every change: when, the resource, and the object as it became."""
        self._clock = clock
        self.faults: list[Fault] = []
        self.calls: Counter[str] = Counter()
        self._versions = itertools.count(1)
        self._uids = itertools.count(1)
        self._log: list[_Change] = []
        self._news = asyncio.Event()
        self._rules = _rules(role)

    # What the operator calls.

    async def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: Object | None = None,
        content_type: str | None = None,
    ) -> Object:
        """One request."""
        await asyncio.sleep(0)
        query = dict(query or {})
        call = _parse(method, path, query)
        self.calls[f"{call.verb} {call.resource}"] += 1
        self._check(call)
        for fault in self.faults:
            error = fault(call, query)
            if error is not None:
                raise error
        try:
            return copy.deepcopy(self._answer(call, query, copy.deepcopy(body), content_type))
        except ConflictException:
            self.calls["conflicts"] += 1
            raise

    async def changes(
        self, path: str, query: Mapping[str, Any], version: str, seconds: int = 0
    ) -> AsyncIterator[tuple[str, Object]]:
        """The changes of a collection after a version, for ever."""
        call = _parse("GET", path, {**query, "watch": True})
        self._check(call)
        at = int(version)
        while True:
            for change in list(self._log):
                if change.number <= at:
                    continue
                at = change.number
                seen = change.as_seen(call, query)
                if seen is not None:
                    yield seen
            await self._news.wait()

    # What users and the rest of the world do.

    def put(self, resource: str, manifest: Object) -> Object:
        """Creates or replaces an object, as nobody in particular."""
        key = (resource, manifest["metadata"]["namespace"], manifest["metadata"]["name"])
        return self._replace(key, manifest) if key in self.objects else self._create(key, manifest)

    def get(self, resource: str, namespace: str, name: str) -> Object | None:
        """An object."""
        return self.objects.get((resource, namespace, name))

    def named(self, resource: str, namespace: str) -> dict[str, Object]:
        """The objects of a kind in a namespace, by name."""
        return {key[2]: item for key, item in self.objects.items() if key[:2] == (resource, namespace)}

    def change(self, resource: str, namespace: str, name: str, change: Callable[[Object], None]) -> None:
        """Changes an object in place, as `kubectl edit` would."""
        item = copy.deepcopy(self.objects[resource, namespace, name])
        change(item)
        self._replace((resource, namespace, name), item)

    def remove(self, resource: str, namespace: str, name: str) -> None:
        """Deletes an object and all that it owns."""
        item = self.objects.pop((resource, namespace, name))
        item["metadata"]["resourceVersion"] = str(next(self._versions))
        self._note(resource, "DELETED", item, item)
        owned = [
            key
            for key, each in self.objects.items()
            if any(owner["uid"] == item["metadata"]["uid"] for owner in each["metadata"].get("ownerReferences", ()))
        ]
        for key in owned:
            if key in self.objects:
                self.remove(*key)

    # Its inside.

    def _check(self, call: Call) -> None:
        if not any(_allows(rule, call) for namespace, rule in self._rules if namespace in ("", call.namespace)):
            raise refusal(403, f"{call.full} is forbidden: cannot {call.verb} {call.full} {call.name}")

    def _answer(self, call: Call, query: Mapping[str, Any], body: Object | None, content_type: str | None) -> Object:
        key = (call.resource, call.namespace, call.name)
        if call.verb == "list":
            items = [item for (kind, _, _), item in self.objects.items() if kind == call.resource]
            chosen = [item for item in items if _selected(item, call.namespace, query)]
            names = {"apiVersion": "v1", "kind": "List"}
            for item in chosen:
                names = {"apiVersion": item.get("apiVersion", "v1"), "kind": f"{item.get('kind', '')}List"}
            bare = [{name: each for name, each in item.items() if name not in names} for item in chosen]
            version = str(self._log[-1].number if self._log else 0)
            return {**names, "items": bare, "metadata": {"resourceVersion": version}}
        if call.verb == "create":
            assert body is not None
            body["metadata"].setdefault("namespace", call.namespace)
            key = (call.resource, call.namespace, body["metadata"]["name"])
            if key in self.objects:
                raise refusal(409, f"{call.resource} {key[2]} already exists")
            return body if "dryRun" in query else self._create(key, body)
        if key not in self.objects:
            if call.verb == "patch" and content_type == APPLY and body is not None:
                if "uid" in body["metadata"]:
                    raise refusal(409, "uid mismatch: no existing object was found")
                return self._create(key, body)
            error = refusal(404, f"{call.resource} {call.name} not found")
            error.body = json.dumps({"reason": "NotFound", "message": error.reason})
            raise error
        if call.verb == "get":
            return self.objects[key]
        if call.verb == "delete":
            self._check_uid(key, ((body or {}).get("preconditions") or {}).get("uid"))
            self.remove(*key)
            return {}
        assert body is not None
        return self._patch(key, call.subresource, body, merge=call.verb == "patch")

    def _patch(self, key: tuple[str, str, str], subresource: str, body: Object, merge: bool) -> Object:
        stored = self.objects[key]
        version = body.get("metadata", {}).get("resourceVersion")
        if version is not None and version != stored["metadata"]["resourceVersion"]:
            raise refusal(409, "the object has been modified")
        if body.get("metadata", {}).get("uid", stored["metadata"]["uid"]) != stored["metadata"]["uid"]:
            raise refusal(422, "metadata.uid: Invalid value: field is immutable")
        item = copy.deepcopy(stored)
        if subresource == "status":
            _merge(item, {"status": body.get("status", {})})
        else:
            body.pop("status", None)
            _merge(item, body)
        return self._replace(key, item)

    def _check_uid(self, key: tuple[str, str, str], wanted: str | None) -> None:
        if wanted is not None and wanted != self.objects[key]["metadata"]["uid"]:
            raise refusal(409, "the uid in the precondition is another")

    def _create(self, key: tuple[str, str, str], manifest: Object) -> Object:
        metadata = manifest["metadata"]
        metadata.setdefault("namespace", key[1])
        metadata.setdefault("uid", f"uid-{next(self._uids)}")
        metadata.update(generation=1, resourceVersion=str(next(self._versions)))
        metadata.setdefault("creationTimestamp", f"2026-01-01T00:00:{len(self.objects) % 60:02d}Z")
        self.objects[key] = manifest
        self._note(key[0], "ADDED", None, manifest)
        return manifest

    def _replace(self, key: tuple[str, str, str], manifest: Object) -> Object:
        stored = self.objects[key]
        metadata = manifest["metadata"]
        metadata["uid"] = stored["metadata"]["uid"]
        if {**stored, "metadata": None} == {**manifest, "metadata": None} and _labels(stored) == _labels(manifest):
            return stored
        metadata["generation"] = stored["metadata"]["generation"] + (stored.get("spec") != manifest.get("spec"))
        metadata["resourceVersion"] = str(next(self._versions))
        self.objects[key] = manifest
        self._note(key[0], "MODIFIED", stored, manifest)
        return manifest

    def _note(self, resource: str, kind: str, before: Object | None, item: Object) -> None:
        self._log.append(_Change(int(item["metadata"]["resourceVersion"]), resource, kind, before, item))
        self.history.append((self._clock(), resource, item))
        self._news.set()
        self._news = asyncio.Event()


@dataclass(frozen=True, slots=True)
class _Change:
    """One change: when in history, of which resource, and the object before and after it."""

    number: int
    resource: str
    kind: str
    before: Object | None
    item: Object

    def as_seen(self, call: Call, query: Mapping[str, Any]) -> tuple[str, Object] | None:
        """What a watch hears of it. An object that leaves the selection is deleted as far as the watch knows."""
        if self.resource != call.resource:
            return None
        if _selected(self.item, call.namespace, query):
            return self.kind, copy.deepcopy(self.item)
        if self.before is None or not _selected(self.before, call.namespace, query):
            return None
        gone = copy.deepcopy(self.before)
        gone["metadata"]["resourceVersion"] = str(self.number)
        return "DELETED", gone


def _labels(item: Object) -> tuple[Any, Any]:
    return item["metadata"].get("labels"), item["metadata"].get("annotations")


def _parse(method: str, path: str, query: Mapping[str, Any]) -> Call:
    parts = path.strip("/").split("/")
    group = "" if parts[0] == "api" else parts[1]
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    namespace = ""
    if parts and parts[0] == "namespaces":
        namespace, parts = parts[1], parts[2:]
    resource, name = parts[0], parts[1] if len(parts) > 1 else ""
    verbs = {"GET": "get" if name else "list", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
    verb = "watch" if "watch" in query else verbs[method]
    # A list of the one name that a field selector asks for is allowed like a get of it.
    named = [field.removeprefix("metadata.name=") for field in _fields(query) if field.startswith("metadata.name=")]
    return Call(verb, group, resource, namespace, name or "".join(named), parts[2] if len(parts) > 2 else "")


def _selected(item: Object, namespace: str, query: Mapping[str, Any]) -> bool:
    if namespace and item["metadata"]["namespace"] != namespace:
        return False
    labels = item["metadata"].get("labels", {})
    for condition in filter(None, str(query.get("labelSelector", "")).split(",")):
        key, equals, value = condition.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return all(_field(item, *condition.split("=")) for condition in _fields(query))


def _fields(query: Mapping[str, Any]) -> list[str]:
    return [condition for condition in str(query.get("fieldSelector", "")).split(",") if condition]


def _field(item: Object, name: str, value: str) -> bool:
    found: Any = item
    for part in name.split("."):
        found = (found or {}).get(part)
    return bool(found == value)


def _rules(role: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The rules of a role, with the namespace in which they hold; empty for everywhere."""
    found = []
    for document in yaml.safe_load_all(RBAC.read_text()):
        if document["metadata"]["name"] == role and document["kind"] in ("ClusterRole", "Role"):
            namespace = SYSTEM if document["kind"] == "Role" else ""
            found += [(namespace, rule) for rule in document["rules"]]
    return found


def _allows(rule: Mapping[str, Any], call: Call) -> bool:
    names = rule.get("resourceNames")
    return (
        call.group in rule["apiGroups"]
        and call.full in rule["resources"]
        and call.verb in rule["verbs"]
        and (names is None or call.name in names)
    )


def _merge(target: dict[str, Any], patch: Mapping[str, Any]) -> None:
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        elif isinstance(value, Mapping) and isinstance(target.get(name), dict):
            _merge(target[name], value)
        else:
            target[name] = value
