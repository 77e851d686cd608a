"""Gathers the snapshot of one pass from the store, which holds what watches said and what our own writes answered."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import cattrs

from dspy_contract.routes import (
    CONTENT_KEY,
    GATEWAY_NAME,
    REVISION_LABEL,
    PortTable,
    Routes,
    load_ports,
    load_routes,
    preview_of,
    routes_name,
)
from dspy_kube.client import Object
from dspy_kube.store import Store
from dspy_operator.api.convert import from_dict
from dspy_operator.api.names import FORGET_ANNOTATION, REQUEST_ANNOTATION
from dspy_operator.api.program import LM, ProgramLM, ProgramSpec
from dspy_operator.api.reasons import Reason
from dspy_operator.api.rollout import Policy, ProgramRef, RolloutSpec, Strategy, StrategyType, Variant, policies_of
from dspy_operator.domain.analysis.users import CONVERSATION_SECONDS, UserTotals
from dspy_operator.domain.ledger import Ledger, Release
from dspy_operator.domain.requests import refreshes_of
from dspy_operator.domain.smoke import problem_of
from dspy_operator.domain.snapshot import (
    DesiredRevision,
    Gateway,
    Preview,
    Problem,
    Program,
    Revision,
    Snapshot,
    Version,
    Workload,
)
from dspy_operator.domain.steps import Compare
from dspy_operator.domain.stored_ledger import newer, read_ledger
from dspy_operator.errors import InvalidSpecError
from dspy_operator.gateway_poller import Poller
from dspy_operator.kube.archives import Archives
from dspy_operator.kube.beside import Beside
from dspy_operator.kube.name_conflicts import NameConflicts
from dspy_operator.kube.pods import container_statuses, workload
from dspy_operator.kube.repairs import Repairs
from dspy_operator.registry.compatibility import mismatch_of
from dspy_operator.registry.follower import Follower
from dspy_operator.resources import program as manifests
from dspy_operator.resources.revision import controller_revision, read_revision, revision_name, version_of
from dspy_operator.resources.runtime_pod import Runtime
from dspy_operator.settings import Settings

LONGEST_WISH = 100
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
_SECRET = re.compile(r'(secret|configmap) "[^"]+" not found|references non-existent (secret|config) key: \S+')


class Observer:
    """Reads programs and everything that belongs to them."""

    def __init__(
        self,
        store: Store,
        follower: Follower,
        poller: Poller,
        gateway_problems: Mapping[str, Problem],
        conflicts: NameConflicts,
        repairs: Repairs,
        archives: Archives,
        beside: Beside,
        settings: Settings,
    ) -> None:
        self._store = store
        self._gateway_problems = gateway_problems
        self._conflicts = conflicts
        self._repairs = repairs
        self._archives = archives
        self._beside = beside
        self._follower = follower
        self._poller = poller
        self._settings = settings
        self._askers: dict[tuple[str, str], set[str]] = {}
        """By program, those of its variants."""

    def program(self, namespace: str, name: str) -> Object | None:
        """The DSPyProgram; None when it is not there or is being deleted."""
        found = self._store.get("DSPyProgram", namespace, name)
        return None if found is None or found["metadata"].get("deletionTimestamp") else found

    def policies(self, namespace: str, program: str) -> tuple[Policy, ...]:
        """The rollouts that name a program, the governing one first."""
        found = self._store.list("DSPyRollout", namespace, program)
        return policies_of(program, tuple(_policy(item) for item in found))

    async def snapshot(self, manifest: Object, latest: Ledger | None, moving: int, now: float) -> Snapshot:
        """Everything about a program. `latest` is what this process knows beyond the stored ledger, `moving` how many
        programs have something in motion, `now` is in Unix seconds."""
        namespace, name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
        program = read_program(manifest, latest)
        previews = (preview_of(name), routes_name(preview_of(name)))
        conflicts = [each for each in await self._conflicts.current(namespace, name) if each[1] not in previews]
        revisions, deployments, services = (
            {item["metadata"]["name"]: item for item in _owned(program, self._store.list(kind, namespace, name))}
            for kind in ("ControllerRevision", "Deployment", "Service")
        )
        found = {revision: read_revision(item) for revision, item in revisions.items()}
        routes_map = self._ours(program, "ConfigMap", routes_name(name))
        ports = read_ports(self._store.get("ConfigMap", namespace, GATEWAY_NAME)) or PortTable()
        snapshot = Snapshot(
            program=program,
            policies=self.policies(namespace, name),
            revisions=found,
            workloads=self._workloads(program, found, deployments, services, now),
            routes=read_routes(routes_map),
            routes_version=routes_map["metadata"]["resourceVersion"] if routes_map else None,
            gateway=self._gateway(program, ports),
            preview=self._preview(program, ports, services.get(preview_of(name))),
            service_port=target_port(services.get(name)),
            service_changed=self._service_changed(program, services.get(name)),
            name_conflict=" ".join(conflicts[0]) if conflicts else None,
            moving=moving,
        )
        snapshot = replace(snapshot, unknown_receivers=self._unknown_receivers(snapshot.policy))
        refreshes = refreshes_of(program.ledger or Ledger(), found)
        asked = self._asked(program, name, found, refreshes)
        variants = self._variants(program, snapshot.policy, found, refreshes)
        return self._beside.learnt(replace(snapshot, asked=asked, variants=variants))

    def leave(self, namespace: str, name: str) -> None:
        """Nothing is asked of a registry any more for a program."""
        for asker in (name, *self._askers.pop((namespace, name), ())):
            self._follower.leave((namespace, asker))

    def _variants(
        self,
        program: Program,
        policy: Policy | None,
        existing: Mapping[str, Revision],
        refreshes: Mapping[str, int],
    ) -> dict[str, DesiredRevision | Problem]:
        """What the policy would have compared besides what the spec asks for."""
        key = program.namespace, program.name
        variants = policy.spec.strategy.ab_test.variants if policy and not policy.unreadable else ()
        asked = {variant.name: asker_of(program.name, variant.name) for variant in variants}
        for asker in self._askers.get(key, set()) - set(asked.values()):
            self._follower.leave((program.namespace, asker))
        self._askers[key] = set(asked.values())
        return {
            each.name: self._asked(_varied(program, each), asked[each.name], existing, refreshes) for each in variants
        }

    def _unknown_receivers(self, policy: Policy | None) -> tuple[str, ...]:
        named = {each.receiver for each in policy.spec.notifications} if policy else set()
        return tuple(sorted(named - self._settings.notifications.keys()))

    def _workloads(
        self,
        program: Program,
        revisions: Mapping[str, Revision],
        deployments: Mapping[str, Object],
        services: Mapping[str, Object],
        now: float,
    ) -> dict[str, Workload]:
        """What serves each revision, by its name."""
        pods = self._store.list("Pod", program.namespace, program.name)
        budgets = self._store.list("PodDisruptionBudget", program.namespace, program.name)
        protected = {item["metadata"]["name"] for item in budgets}
        mounts = self._failed_mounts(program.namespace, pods)
        found = {}
        for name, deployment in deployments.items():
            if deployment["metadata"].get("deletionTimestamp"):
                continue
            own = [pod for pod in pods if pod["metadata"]["labels"].get(REVISION_LABEL) == name]
            seen = workload(deployment, own, mounts, services.get(name), now)
            changed = self._changed(revisions.get(name), deployment, services.get(name))
            found[name] = replace(seen, has_budget=name in protected, changed=changed)
        return found

    def _changed(self, revision: Revision | None, deployment: Object, service: Object | None) -> dict[str, str]:
        """What somebody changed in a revision's objects, by kind."""
        if revision is None:
            return {}
        pairs = {"Deployment": (deployment, revision.deployment), "Service": (service, revision.service)}
        fields = {
            kind: self._repairs.field(item, pinned, revision.name) for kind, (item, pinned) in pairs.items() if item
        }
        return {kind: changed for kind, changed in fields.items() if changed}

    def _service_changed(self, program: Program, service: Object | None) -> str | None:
        port = target_port(service)
        if service is None or port is None:
            return None
        return self._repairs.field(service, manifests.service(program, service["metadata"]["name"], port), port)

    def _preview(self, program: Program, table: PortTable, service: Object | None) -> Preview:
        routes_map = self._ours(program, "ConfigMap", routes_name(preview_of(program.name)))
        return Preview(
            port=_living_port(table, preview_of(program.uid)),
            routes=read_routes(routes_map),
            routes_version=routes_map["metadata"]["resourceVersion"] if routes_map else None,
            service_port=target_port(service),
            service_changed=self._service_changed(program, service),
        )

    def _asked(
        self, program: Program, asker: str, existing: Mapping[str, Revision], refreshes: Mapping[str, int]
    ) -> DesiredRevision | Problem:
        """What a spec asks for. `asker` is who follows its uri: the program, or a variant of it."""
        model = program.spec.model
        if model.registry not in self._follower.sources:
            self._follower.leave((program.namespace, asker))
            names = ", ".join(sorted(self._follower.sources)) or "none"
            return Problem(
                Reason.REGISTRY_UNKNOWN,
                f"spec.model.registry {model.registry!r} is not configured in the operator; known: {names}",
            )
        known = _known_versions(program, existing, refreshes)
        version: Version | Problem
        if model.uri in known:
            # A version means the same for good: one that a revision was made of needs no registry.
            self._follower.leave((program.namespace, asker))
            version = known[model.uri]
        else:
            try:
                follow = (program.namespace, asker), model.registry, model.uri
                version = self._follower.follow(*follow, {each.model_id: each for each in known.values()})
            except InvalidSpecError as error:
                self._follower.leave((program.namespace, asker))
                return Problem(error.reason, error.message)
        if isinstance(version, Problem):
            return version
        name, refreshed = _named(program, version, refreshes)
        if name in existing:
            return DesiredRevision(existing[name], {})
        mismatch = None if program.spec.image else mismatch_of(version, self._settings)
        if mismatch:
            return mismatch
        python = version.python or self._settings.runtime_pythons[0]
        registry_url = self._follower.sources[model.registry].url
        archived = self._archives.takes(program.namespace, version.archive_bytes)
        runtime = Runtime(self._settings.runtime_image.format(python=python), registry_url, archived)
        manifest = controller_revision(program, name, version, runtime, refreshed)
        return DesiredRevision(read_revision(manifest), manifest)

    def _gateway(self, program: Program, table: PortTable) -> Gateway:
        namespace, uid = program.namespace, program.uid
        release = program.ledger.release if program.ledger else None
        pods, states = self._poller.latest(namespace)
        return Gateway(
            port=_living_port(table, uid),
            pods=pods,
            states=states,
            unseen=self._poller.unseen(namespace, release.users if release else None),
            users=self._users(program, release) if release else {},
            problem=self._gateway_problems.get(uid),
        )

    def _users(self, program: Program, release: Release) -> dict[str, UserTotals]:
        """By candidate."""
        exposures = [step.exposure_seconds for step in release.steps if isinstance(step, Compare)]
        exposure, late = min(exposures, default=CONVERSATION_SECONDS), program.spec.serving.timeout_seconds
        stable, about = str(program.ledger.stable if program.ledger else None), (program.uid, release.id)
        return {
            candidate: self._poller.users(program.namespace, *about, (stable, candidate), exposure, late)
            for candidate in release.candidates
        }

    def _ours(self, program: Program, kind: str, name: str) -> Object | None:
        """An object of that name if it belongs to this program."""
        found = self._store.get(kind, program.namespace, name)
        return next(iter(_owned(program, [found] if found else [])), None)

    def _failed_mounts(self, namespace: str, pods: list[Object]) -> dict[str, str]:
        """Why volumes could not be mounted, by pod, of pods whose containers are not created yet."""
        found = {}
        for pod in filter(_creating, pods):
            name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
            for event in self._store.list("Event", namespace, name):
                match = _SECRET.search(event["message"])
                if match and event["involvedObject"].get("uid") == uid:
                    found[name] = match[0]
        return found


def asker_of(program: str, variant: str) -> str:
    """Who follows a variant's uri. No program has such a name."""
    return f"{program}/{variant}"


def program_of(asker: str) -> str:
    """Whose variant follows a uri, if it is one."""
    return asker.partition("/")[0]


def _varied(program: Program, variant: Variant) -> Program:
    """The program as a variant would have it."""
    spec = program.spec
    lm = spec.lm
    if variant.lm:
        given = {each.name: getattr(variant.lm, each.name) for each in fields(LM)}
        lm = ProgramLM(**given, by_predictor=spec.lm.by_predictor, last_resort=spec.lm.last_resort)
    model = replace(spec.model, uri=variant.uri) if variant.uri else spec.model
    return replace(program, spec=replace(spec, model=model, lm=lm))


def _known_versions(
    program: Program, existing: Mapping[str, Revision], refreshes: Mapping[str, int]
) -> dict[str, Version]:
    """What the program's own revisions say of the registry's versions, by uri; not of what is to be read anew."""
    found = {
        each.model_uri: version_of(each)
        for each in sorted(existing.values(), key=lambda each: each.created)
        if each.registry in ("", program.spec.model.registry) and each.refreshed == refreshes[each.first_name]
    }
    if not any(refreshes.values()):
        return found
    names = {uri: _named(program, version, refreshes) for uri, version in found.items()}
    return {uri: found[uri] for uri, (name, refreshed) in names.items() if not refreshed or name in existing}


def _named(program: Program, version: Version, refreshes: Mapping[str, int]) -> tuple[str, int]:
    """The name of a version's revision with the program's settings, and how often a person asked to make it anew."""
    first_name = revision_name(program.name, program.spec, version)
    refreshed = refreshes.get(first_name, 0)
    return revision_name(program.name, program.spec, version, refreshed) if refreshed else first_name, refreshed


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
        forget=metadata.get("annotations", {}).get(FORGET_ANNOTATION, "")[:LONGEST_WISH],
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
        unreadable = problem_of(spec.strategy)
    except (cattrs.BaseValidationError, KeyError, TypeError, ValueError) as error:
        unreadable = "; ".join(cattrs.transform_error(error)) if isinstance(error, Exception) else str(error)
        spec = RolloutSpec(
            ProgramRef(str(item["spec"]["programRef"]["name"])), Strategy(StrategyType.CANARY), paused=True
        )
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


def _creating(pod: Object) -> bool:
    waiting = [((each.get("state") or {}).get("waiting") or {}).get("reason") for each in container_statuses(pod)]
    return any(reason in ("ContainerCreating", "PodInitializing") for reason in waiting)


def _owned(program: Program, items: list[Object]) -> list[Object]:
    """The objects that belong to the program itself, not to one of the same name that is being removed."""
    return [
        item
        for item in items
        if any(owner["uid"] == program.uid for owner in item["metadata"].get("ownerReferences", ()))
    ]


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


def _living_port(table: PortTable, uid: str) -> int | None:
    port = table.ports.get(uid)
    return port.port if port and port.freed_at is None else None


def read_ports(config_map: Object | None) -> PortTable | None:
    """The port table as written; None when there is none that can be read."""
    try:
        return load_ports(config_map["data"][CONTENT_KEY]) if config_map else None
    except UNREADABLE:
        return None


def target_port(service: Object | None) -> int | None:
    """The port of the gateway that a Service of a program points at."""
    return int(service["spec"]["ports"][0]["targetPort"]) if service else None
