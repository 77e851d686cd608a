"""A pass over a namespace's gateway: its objects are observed, planned and executed like a program's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Set
from dataclasses import replace

from dspy_contract.logs import Logger
from dspy_contract.routes import GATEWAY_NAME, PROGRAM_LABEL, PortTable, preview_of
from dspy_kube.client import Object
from dspy_kube.store import Store
from dspy_operator.api.names import FIELD_MANAGER, GATEWAY_LABEL, MANAGED_BY_LABEL
from dspy_operator.api.program import Serving
from dspy_operator.api.reasons import Reason
from dspy_operator.api.rollout import StrategyType
from dspy_operator.domain.gateway import (
    GatewayPlan,
    GatewaySnapshot,
    is_outdated,
    is_rolled_out,
    plan_gateway,
    ports_of,
)
from dspy_operator.domain.snapshot import Problem
from dspy_operator.kube.observe import read_ports, read_routes, target_port
from dspy_operator.kube.repairs import REPAIR_SECONDS
from dspy_operator.kube.write import Writer
from dspy_operator.resources import gateway as manifests
from dspy_operator.resources.gateway import GatewaySettings
from dspy_operator.settings import Settings

LONGEST_ROLL_SECONDS = 600.0
PERMITTED_SECONDS = 30.0
log = Logger(__name__)


class GatewayReconciler:
    """Works on `gateway/<namespace>`. What is wrong with a gateway is told by its programs: `problems`, by their
    uid."""

    def __init__(self, store: Store, writer: Writer, settings: Settings, token: Callable[[str], str]) -> None:
        self._store = store
        self._writer = writer
        self._settings = settings
        self._token = token
        self.problems: dict[str, Problem] = {}
        self._told: dict[str, tuple[str, ...]] = {}
        """By namespace, the programs that have a problem."""
        self._rolling_since: dict[str, float] = {}
        self._applied: dict[tuple[str, str], tuple[Mapping[str, object], float]] = {}
        """By namespace and kind, what was applied again last, and when: the same not within REPAIR_SECONDS."""
        self._permitted = ("", float("-inf"))
        """The namespace that was last allowed to roll, and when: its Deployment may not be written yet."""

    async def work(self, namespace: str, now: float) -> tuple[float | None, set[str]]:
        """One pass. Returns when to look again, and the names of the programs whose problem or ports have changed."""
        found = self._store.list("DSPyProgram", namespace)
        programs = [item for item in found if not item["metadata"].get("deletionTimestamp")]
        conflicts = await self._writer.conflicts.current(namespace, "")
        named = {item["metadata"]["uid"]: item["metadata"]["name"] for item in programs}
        snapshot = self._observe(namespace, named, {kind for kind, _ in conflicts})
        if not programs:
            self._writer.conflicts.forget(namespace, "")
        table = ports_of(snapshot, now)
        desired = manifests.gateway(namespace, self._gateway_settings(namespace, programs), table)
        if is_outdated(snapshot, desired):
            may_roll = not self._is_releasing(namespace) and not self._rolls_elsewhere(namespace)
            if may_roll:
                self._permitted = (namespace, asyncio.get_running_loop().time())
            snapshot = replace(snapshot, may_roll=may_roll)
        decided = plan_gateway(snapshot, table, desired, now)
        fought = await self._execute(namespace, decided)
        waits = (decided.wake_after_seconds, fought, self._writer.conflicts.due_seconds(namespace, ""))
        names = {**named, **{preview_of(uid): name for uid, name in named.items()}}
        changed = self._tell(namespace, names, decided.problems)
        changed |= {name for uid, name in names.items() if _has_port(snapshot.table, uid) != _has_port(table, uid)}
        return min((wait for wait in waits if wait is not None), default=None), changed

    def _observe(self, namespace: str, named: Mapping[str, str], conflicts: Set[str]) -> GatewaySnapshot:
        """`named` are the programs' names by uid."""
        held = {kind: self._store.get(kind, namespace, GATEWAY_NAME) for kind in manifests.KINDS}
        found = {kind: item for kind, item in held.items() if item}
        existing = {kind: item for kind, item in found.items() if _is_ours(item)}
        ports = existing.get("ConfigMap")
        table = read_ports(ports)
        return GatewaySnapshot(
            programs={**named, **self._previews(namespace, named)},
            table=table,
            service_ports={} if table else self._service_ports(namespace),
            existing=existing,
            conflicts=conflicts | (found.keys() - existing.keys()),
        )

    def _previews(self, namespace: str, named: Mapping[str, str]) -> dict[str, str]:
        """The previews' names by uid: of each program whose policy in force is blue-green, or whose release began
        under one."""
        in_force: dict[str, Object] = {}
        for item in sorted(self._store.list("DSPyRollout", namespace), key=_age):
            in_force.setdefault(item["spec"]["programRef"]["name"], item)
        found = {}
        for uid, name in named.items():
            strategy = in_force.get(name, {}).get("spec", {}).get("strategy", {})
            if strategy.get("type") == StrategyType.BLUE_GREEN or self._is_previewed(namespace, name):
                found[preview_of(uid)] = preview_of(name)
        return found

    def _is_previewed(self, namespace: str, name: str) -> bool:
        program = self._store.get("DSPyProgram", namespace, name) or {}
        release = ((program.get("status") or {}).get("release") or {}).get("release") or {}
        return release.get("previewed") is True

    def _is_releasing(self, namespace: str) -> bool:
        """True while a candidate of the namespace has traffic, other than one that waits for newer gateways."""
        for item in self._store.list("ConfigMap", namespace):
            routes = read_routes(item)
            if routes is None or not routes.tries_candidates:
                continue
            program = self._store.get("DSPyProgram", namespace, routes.program) or {}
            release = ((program.get("status") or {}).get("release") or {}).get("release") or {}
            if (release.get("paused") or {}).get("reason") != Reason.GATEWAY_TOO_OLD:
                return True
        return False

    def _rolls_elsewhere(self, namespace: str) -> bool:
        """True while another namespace's gateway is being replaced, for at most LONGEST_ROLL_SECONDS: an image that
        cannot run is met once, and a namespace that is ill holds up the others for a while only."""
        now = asyncio.get_running_loop().time()
        rolling = {
            item["metadata"]["namespace"]
            for item in self._store.list("Deployment", None, "")
            if item["metadata"]["name"] == GATEWAY_NAME and not is_rolled_out(item)
        }
        permitted, at = self._permitted
        if permitted != namespace and now - at < PERMITTED_SECONDS:
            return True
        self._rolling_since = {each: self._rolling_since.get(each, now) for each in rolling}
        others = [since for each, since in self._rolling_since.items() if each != namespace]
        return any(now - since < LONGEST_ROLL_SECONDS for since in others)

    def _service_ports(self, namespace: str) -> dict[str, int]:
        ports = {}
        for service in self._store.list("Service", namespace):
            metadata = service["metadata"]
            name, program = metadata["name"], metadata["labels"].get(PROGRAM_LABEL, "")
            own = name in (program, preview_of(program))
            port = target_port(service) if own else None
            for owner in metadata.get("ownerReferences", ()):
                if port is not None:
                    ports[owner["uid"] if name == program else preview_of(owner["uid"])] = port
        return ports

    def _gateway_settings(self, namespace: str, programs: list[Object]) -> GatewaySettings:
        default = Serving().timeout_seconds
        longest = max((item["spec"].get("serving", {}).get("timeoutSeconds", default) for item in programs), default=0)
        return GatewaySettings(
            image=self._settings.gateway_image,
            replicas=self._settings.gateway_replicas,
            grace_seconds=manifests.grace_seconds(longest),
            token=self._token(namespace),
        )

    async def _execute(self, namespace: str, plan: GatewayPlan) -> float | None:
        """Returns in how many seconds what somebody changes again and again is applied again."""
        fought: float | None = None
        for manifest in plan.create:
            await self._writer.apply(dict(manifest), create=True)
        for manifest in plan.apply:
            now, key = asyncio.get_running_loop().time(), (namespace, manifest["kind"])
            applied, at = self._applied.get(key, (None, 0.0))
            if applied == manifest and now - at < REPAIR_SECONDS:
                fought = REPAIR_SECONDS - (now - at)
                continue
            log.info("A gateway's object is applied again", namespace=namespace, kind=manifest["kind"])
            await self._writer.apply(dict(manifest), create=False)
            self._applied[key] = (manifest, now)
        for kind, uid in plan.delete:
            await self._writer.delete(kind, namespace, GATEWAY_NAME, uid)
            self._applied.pop((namespace, kind), None)
        return fought

    def _tell(self, namespace: str, programs: Mapping[str, str], problems: Mapping[str, Problem]) -> set[str]:
        changed = {name for uid, name in programs.items() if self.problems.get(uid) != problems.get(uid)}
        for uid in self._told.pop(namespace, ()):
            self.problems.pop(uid, None)
        self.problems.update(problems)
        if problems:
            self._told[namespace] = tuple(problems)
        return changed


def _age(rollout: Object) -> tuple[str, str]:
    """The oldest is in force."""
    return rollout["metadata"]["creationTimestamp"], rollout["metadata"]["name"]


def _has_port(table: PortTable | None, uid: str) -> bool:
    port = table.ports.get(uid) if table else None
    return port is not None and port.freed_at is None


def _is_ours(item: Object) -> bool:
    labels = item["metadata"].get("labels", {})
    return bool(labels.get(MANAGED_BY_LABEL) == FIELD_MANAGER and labels.get(GATEWAY_LABEL) == "true")
