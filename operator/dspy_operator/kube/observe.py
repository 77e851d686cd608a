"""Gathers the snapshot of one pass. Reads the API itself, not a cache, so every pass sees its own writes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import cattrs
from kubernetes.aio.client.exceptions import NotFoundException
from packaging.specifiers import SpecifierSet

from dspy_contract.routes import (
    CONTENT_KEY,
    GATEWAY_NAME,
    PROGRAM_LABEL,
    REVISION_LABEL,
    PortTable,
    Routes,
    load_ports,
    load_routes,
    routes_name,
)
from dspy_kube.client import Kube, Object
from dspy_operator.api.convert import from_dict
from dspy_operator.api.names import REQUEST_ANNOTATION
from dspy_operator.api.program import ProgramSpec
from dspy_operator.api.reasons import Reason
from dspy_operator.api.rollout import Policy, ProgramRef, RolloutSpec, Strategy, policies_of
from dspy_operator.domain.ledger import Ledger
from dspy_operator.domain.snapshot import (
    DesiredRevision,
    Gateway,
    Problem,
    Program,
    Revision,
    Snapshot,
    Version,
    Workload,
)
from dspy_operator.domain.stored_ledger import newer, read_ledger
from dspy_operator.errors import InvalidSpecError
from dspy_operator.gateway_poller import Poller
from dspy_operator.kube.paths import path
from dspy_operator.kube.pods import workload
from dspy_operator.registry.mlflow import Registry
from dspy_operator.resources.revision import Runtime, controller_revision, read_revision, revision_name
from dspy_operator.settings import Settings

UNREADABLE = (ValueError, KeyError, TypeError, AttributeError)
_SECRET = re.compile(r'(secret|configmap) "[^"]+" not found|references non-existent (secret|config) key: \S+')


class Observer:
    """Reads programs and everything that belongs to them."""

    def __init__(
        self,
        kube: Kube,
        registries: Mapping[str, Registry],
        poller: Poller,
        gateway_problems: Mapping[str, Problem],
        settings: Settings,
    ) -> None:
        self._kube = kube
        self._gateway_problems = gateway_problems
        self._registries = registries
        self._poller = poller
        self._settings = settings

    async def program(self, namespace: str, name: str) -> Object | None:
        """The DSPyProgram; None when it is not there or is being deleted."""
        found = await self.get("DSPyProgram", namespace, name)
        return None if found is None or found["metadata"].get("deletionTimestamp") else found

    async def policies(self, namespace: str, program: str) -> tuple[Policy, ...]:
        """The rollouts that name a program, the governing one first."""
        found = await self._kube.request("GET", path("DSPyRollout", namespace))
        return policies_of(program, tuple(_policy(item) for item in found["items"]))

    async def snapshot(self, manifest: Object, latest: Ledger | None) -> Snapshot:
        """Everything about a program. `latest` is what the last pass of this process knew beyond the stored ledger."""
        namespace, name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
        program = read_program(manifest, latest)
        label = {"labelSelector": f"{PROGRAM_LABEL}={name}"}
        (policies, services, routes_map, ports), (revisions, deployments, pods) = await asyncio.gather(
            asyncio.gather(
                self.policies(namespace, name),
                self._services(namespace, name),
                self.get("ConfigMap", namespace, routes_name(name)),
                self.get("ConfigMap", namespace, GATEWAY_NAME),
            ),
            asyncio.gather(
                *(self._list(kind, namespace, label) for kind in ("ControllerRevision", "Deployment", "Pod"))
            ),
        )
        revisions, deployments = _owned(revisions, program.uid), _owned(deployments, program.uid)
        revisions_by_name = {item["metadata"]["name"]: read_revision(item) for item in revisions}
        mounts = await self._failed_mounts(namespace, pods)
        named = {"Service": services.get(name), "ConfigMap": routes_map}
        service, routes_map = (_ours(program, found) for found in named.values())
        return Snapshot(
            program=program,
            policies=policies,
            desired=await self._desired(program, manifest["spec"], revisions_by_name),
            revisions=revisions_by_name,
            workloads=_workloads(deployments, pods, services, mounts),
            routes=read_routes(routes_map),
            routes_version=routes_map["metadata"]["resourceVersion"] if routes_map else None,
            gateway=self._gateway(namespace, program.uid, read_ports(ports) or PortTable()),
            service_port=target_port(service),
            name_conflict=_name_conflict(program, named),
        )

    async def _desired(
        self, program: Program, raw_spec: Mapping[str, Any], existing: Mapping[str, Revision]
    ) -> DesiredRevision | Problem:
        model = program.spec.model
        registry = self._registries.get(model.registry)
        if registry is None:
            names = ", ".join(sorted(self._registries)) or "none"
            return Problem(
                Reason.REGISTRY_UNKNOWN,
                f"spec.model.registry {model.registry!r} is not configured in the operator; known: {names}",
            )
        try:
            version = await registry.resolve(model.uri)
        except InvalidSpecError as error:
            return Problem(error.reason, error.message)
        if isinstance(version, Problem):
            return self._known_revision(program, raw_spec, existing) or version
        mismatch = _mismatch(program.spec, version, self._settings)
        if mismatch:
            return mismatch
        name = revision_name(program.name, raw_spec, version)
        python = version.python or self._settings.runtime_pythons[0]
        runtime = Runtime(self._settings.runtime_image.format(python=python), registry.url)
        manifest = controller_revision(program, name, version, runtime)
        return DesiredRevision(existing.get(name) or read_revision(manifest), manifest)

    def _known_revision(
        self, program: Program, raw_spec: Mapping[str, Any], existing: Mapping[str, Revision]
    ) -> DesiredRevision | None:
        """A revision that exists needs no registry: going back to it must not wait for one."""
        for revision in existing.values():
            if revision.model_uri == program.spec.model.uri:
                version = Version(revision.model_uri, revision.version, revision.model_id, revision.digest, "", "")
                if revision_name(program.name, raw_spec, version) == revision.name:
                    return DesiredRevision(revision, {})
        return None

    def _gateway(self, namespace: str, uid: str, table: PortTable) -> Gateway:
        port = table.ports.get(uid)
        pods, states = self._poller.latest(namespace)
        own = port.port if port and port.freed_at is None else None
        return Gateway(own, pods, states, self._poller.unseen(namespace), self._gateway_problems.get(uid))

    async def _services(self, namespace: str, program: str) -> dict[str, Object]:
        """Services by name: ours by label, and whatever has the program's own name."""
        found = await self._list("Service", namespace, {"labelSelector": f"{PROGRAM_LABEL}={program}"})
        services = {item["metadata"]["name"]: item for item in found}
        if program not in services and (stranger := await self.get("Service", namespace, program)) is not None:
            services[program] = stranger
        return services

    async def _failed_mounts(self, namespace: str, pods: list[Object]) -> dict[str, str]:
        """Why volumes could not be mounted, by pod, asked only for pods whose containers are not created yet."""
        creating = [pod for pod in pods if _creating(pod)]
        if not creating:
            return {}
        selector = "involvedObject.kind=Pod,reason=FailedMount"
        events = await self._list("Event", namespace, {"fieldSelector": selector})
        uids = {pod["metadata"]["uid"] for pod in creating}
        return {
            event["involvedObject"]["name"]: match[0]
            for event in events
            if event["involvedObject"].get("uid") in uids and (match := _SECRET.search(event.get("message", "")))
        }

    async def _list(self, kind: str, namespace: str, query: Mapping[str, str]) -> list[Object]:
        return list((await self._kube.request("GET", path(kind, namespace), query))["items"])

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """An object; None when it is not there."""
        try:
            return await self._kube.request("GET", path(kind, namespace, name))
        except NotFoundException:
            return None


def read_program(manifest: Object, latest: Ledger | None) -> Program:
    """A DSPyProgram as the plan sees it. Raises InvalidSpecError when the schema let something through."""
    metadata, status = manifest["metadata"], manifest.get("status", {})
    stored = read_ledger(status)
    try:
        spec = from_dict(manifest["spec"], ProgramSpec)
    except (cattrs.BaseValidationError, KeyError, TypeError, ValueError) as error:
        raise InvalidSpecError(
            Reason.INVALID, f"spec cannot be read: {'; '.join(cattrs.transform_error(error))}"
        ) from error
    return Program(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        generation=metadata["generation"],
        resource_version=metadata["resourceVersion"],
        spec=spec,
        request=metadata.get("annotations", {}).get(REQUEST_ANNOTATION, ""),
        status=status,
        ledger=newer(stored.ledger, latest),
        lost=stored.lost,
        newer_version=stored.newer_version,
    )


def stored_kept(status: Mapping[str, Any]) -> Mapping[str, int]:
    """Up to which draw table of each gateway pod the stored ledger keeps the counts."""
    evidence = ((status.get("release") or {}).get("release") or {}).get("evidence") or {}
    return {str(name): int(number) for name, number in (evidence.get("kept") or {}).items()}


def _policy(item: Object) -> Policy:
    """A rollout. One that this operator cannot read governs its program all the same, and holds it still."""
    metadata, unreadable = item["metadata"], ""
    try:
        spec = from_dict(item["spec"], RolloutSpec)
    except (cattrs.BaseValidationError, KeyError, TypeError, ValueError) as error:
        unreadable = "; ".join(cattrs.transform_error(error)) if isinstance(error, Exception) else str(error)
        spec = RolloutSpec(ProgramRef(str(item["spec"]["programRef"]["name"])), Strategy("Unreadable"), paused=True)
    return Policy(
        metadata["name"],
        metadata["uid"],
        metadata["creationTimestamp"],
        metadata["generation"],
        spec,
        item.get("status", {}),
        metadata["resourceVersion"],
        unreadable,
    )


def _workloads(
    deployments: list[Object], pods: list[Object], services: Mapping[str, Object], mounts: Mapping[str, str]
) -> dict[str, Workload]:
    found = {}
    for deployment in deployments:
        revision = deployment["metadata"]["labels"].get(REVISION_LABEL, deployment["metadata"]["name"])
        if deployment["metadata"].get("deletionTimestamp"):
            continue
        own = [pod for pod in pods if pod["metadata"]["labels"].get(REVISION_LABEL) == revision]
        found[revision] = workload(deployment, own, mounts, services.get(revision))
    return found


def _creating(pod: Object) -> bool:
    statuses = pod.get("status", {}).get("containerStatuses") or ()
    return any(
        ((status.get("state") or {}).get("waiting") or {}).get("reason") == "ContainerCreating" for status in statuses
    )


def _owned(items: list[Object], uid: str) -> list[Object]:
    """The objects that belong to the program itself, not to one of the same name that is being removed, or to a
    stranger."""
    return [item for item in items if any(owner["uid"] == uid for owner in item["metadata"].get("ownerReferences", ()))]


def read_routes(config_map: Object | None) -> Routes | None:
    """The routes as written; None, so that they are written anew, when somebody made them unreadable.

    A copy of them under another name means nothing.
    """
    if config_map is None:
        return None
    try:
        routes = load_routes(config_map["data"][CONTENT_KEY])
    except UNREADABLE:
        return None
    return routes if config_map["metadata"]["name"] == routes_name(routes.program) else None


def read_ports(config_map: Object | None) -> PortTable | None:
    """The port table as written; None when there is none that can be read."""
    try:
        return load_ports(config_map["data"][CONTENT_KEY]) if config_map else None
    except UNREADABLE:
        return None


def target_port(service: Object | None) -> int | None:
    """The port of the gateway that a program's Service points at."""
    return int(service["spec"]["ports"][0]["targetPort"]) if service else None


def _ours(program: Program, found: Object | None) -> Object | None:
    """The object if it belongs to this program."""
    owners = found["metadata"].get("ownerReferences", ()) if found else ()
    return found if any(owner["uid"] == program.uid for owner in owners) else None


def _name_conflict(program: Program, named: Mapping[str, Object | None]) -> str | None:
    """The first object with a child's name that does not belong to this program."""
    strangers = [(kind, found) for kind, found in named.items() if found and not _ours(program, found)]
    return next((f"{kind} {found['metadata']['name']}" for kind, found in strangers), None)


def _mismatch(spec: ProgramSpec, version: Version, settings: Settings) -> Problem | None:
    """A version that no runtime image can load; users who bring their own image know what they do."""
    if spec.image is not None:
        return None
    if version.python and version.python not in settings.runtime_pythons:
        known = ", ".join(settings.runtime_pythons)
        words = (
            f"Version {version.number} was logged with Python {version.python}; there are runtime images for {known}"
        )
        return Problem(Reason.PYTHON_MISMATCH, f"{words}: log it again with one of these, or set spec.image")
    if version.dspy and not _within(version.dspy, settings.runtime_dspy):
        words = f"Version {version.number} needs DSPy {version.dspy}; the runtime images hold {settings.runtime_dspy}"
        return Problem(Reason.DSPY_MISMATCH, f"{words}: log it again with that, or set spec.image")
    return None


def _within(version: str, supported: str) -> bool:
    return SpecifierSet(supported).contains(version, prereleases=True)
