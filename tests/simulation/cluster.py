"""A model of the cluster for the simulation: pods that start late, crash and vanish, gateways that lag, a registry, an
API
whose writes may fail, and an operator that may restart between any two writes. The plan is the real one.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dspy_contract.routes import TOTAL_WEIGHT, Routes, content_hash, effective_weights
from dspy_contract.state import EDGES_SECONDS, Counts, DrawTable, GatewayState, ProgramState
from dspy_operator.api.convert import from_dict
from dspy_operator.api.program import LM, Model, ProgramSpec
from dspy_operator.api.rollout import Canary, Pause, Policy, ProgramRef, RolloutSpec, Step, Strategy
from dspy_operator.domain.actions import (
    Action,
    ApplyService,
    CreateRevision,
    Delete,
    MarkStable,
    ServeRevision,
    WriteRoutes,
)
from dspy_operator.domain.analysis.evidence import add_counts
from dspy_operator.domain.ledger import Ledger
from dspy_operator.domain.plan import Plan, plan
from dspy_operator.domain.snapshot import DesiredRevision, Gateway, Problem, Program, Revision, Snapshot, Workload
from dspy_operator.domain.stored_ledger import newer, read_ledger
from dspy_operator.domain.transition import Event

UID = "uid-1"
PORT = 10_000
TIMEOUT_SECONDS = 61.0
SWITCH_SECONDS, ROTATE_SECONDS = 30.0, 10.0
START = 1_000_000.0


class WriteFailedError(Exception):
    """The API refused or lost a write."""


class RestartedError(Exception):
    """The operator ended between two writes."""


@dataclass
class Version:
    """A version in the registry and how its program behaves."""

    number: int
    failure_rate: float = 0.0
    refusal_rate: float = 0.0
    """Share of valid requests that it refuses as the client's fault."""
    loads: bool = True
    start_seconds: float = 3.0
    hang_share: float = 0.0
    """Share of requests that it never answers: the gateway gives up after the program's timeout."""
    latency_seconds: float = 0.2


@dataclass
class Workloads:
    """A revision's Deployment in the model."""

    revision: Revision
    replicas: int
    created_at: float
    start_seconds: float
    loads: bool
    down_until: float = 0.0
    crashed: frozenset[str] = frozenset()
    promoted_at: float | None = None


@dataclass
class Request:
    """A request in flight: when it began, when and how it will end."""

    revision: str
    started_at: float
    ends_at: float
    outcome: str


@dataclass
class SimulatedTable:
    """A draw table of a gateway pod: what it has counted, and what is still in flight."""

    number: int
    opened_at: float
    weights: Mapping[str, int]
    release: int | None
    epoch: int
    warm_seconds: float
    closed: bool = False
    open: list[Request] = field(default_factory=list)
    started: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, dict[str, int]] = field(default_factory=dict)
    older: dict[str, dict[int, int]] = field(default_factory=dict)

    def start(self, request: Request) -> None:
        """Draws a request."""
        self.started[request.revision] = self.started.get(request.revision, 0) + 1
        self.open.append(request)

    def end(self, now: float) -> None:
        """Counts the requests that have ended by now."""
        for request in [request for request in self.open if request.ends_at <= now]:
            self.open.remove(request)
            outcomes = self.outcomes.setdefault(request.revision, {})
            outcomes[request.outcome] = outcomes.get(request.outcome, 0) + 1
            _age(self.older.setdefault(request.revision, {}), request.ends_at - request.started_at)

    def counts(self, revision: str, now: float) -> Counts:
        """What was counted of a revision by now, with the ages of what is in flight."""
        older = dict(self.older.get(revision, {}))
        for request in self.open:
            if request.revision == revision:
                _age(older, now - request.started_at)
        return Counts(self.started.get(revision, 0), dict(self.outcomes.get(revision, {})), older)

    @property
    def settled(self) -> bool:
        """True when nothing can draw by it and every request has ended."""
        return self.closed and not self.open


def _age(older: dict[int, int], seconds: float) -> None:
    """Counts one request at every edge of the grid that it has reached."""
    for edge in range(bisect.bisect_right(EDGES_SECONDS, seconds)):
        older[edge] = older.get(edge, 0) + 1


@dataclass
class GatewayPod:
    """A gateway pod: the routes that it obeys, those that are on their way, and its draw tables."""

    since: float
    obeyed: Routes | None = None
    arriving: list[tuple[float, Routes]] = field(default_factory=list)
    tables: list[SimulatedTable] = field(default_factory=list)
    incarnation: int = 1
    reachable: bool = True
    guarded_until: float = 0.0
    candidate_ready: bool = False
    grown_at: float = 0.0

    def restart(self) -> None:
        """Begins anew with nothing counted."""
        self.incarnation += 1
        self.tables = []


@dataclass
class World:
    """The whole model. Time moves only by `tick`."""

    seed: int = 0
    replicas: int = 1
    now: float = START
    lag_seconds: float = 0.02
    fail_next_write: bool = False
    restart_after_writes: int | None = None

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.versions: dict[int, Version] = {}
        self.wanted: int | None = None
        self.registry_up = True
        self.policy: RolloutSpec | None = None
        self.generation = 1
        self.request = ""
        self.status: dict[str, Any] = {}
        self.rollout_status: dict[str, Any] = {}
        self.resource_version = 1
        self.revisions: dict[str, Revision] = {}
        self.workloads: dict[str, Workloads] = {}
        self.routes: Routes | None = None
        self.service_port: int | None = None
        self.gateways = {"gateway-a": GatewayPod(self.now), "gateway-b": GatewayPod(self.now)}
        self.memory: Ledger | None = None
        self.said: list[tuple[float, Event]] = []
        self.lost: list[str] = []
        self.provider_failure_rate = 0.0
        self.patience_seconds: float | None = None
        """How long clients wait before they leave."""

    # What users do.

    def publish(self, number: int, **behaviour: Any) -> None:
        """Puts a version into the registry."""
        self.versions[number] = Version(number, **behaviour)

    def want(self, number: int) -> None:
        """Asks for a version in the program's spec."""
        self.wanted = number
        self.generation += 1

    def set_policy(self, *steps: Step, **options: Any) -> None:
        """Applies a rollout."""
        self.policy = RolloutSpec(ProgramRef("qa"), Strategy("Canary", Canary(steps)), **options)

    # What the operator sees.

    def snapshot(self) -> Snapshot:
        """What one pass observes."""
        stored = newer(read_ledger(self.status).ledger, self.memory)
        spec = ProgramSpec(Model(f"models:/qa/{self.wanted}"), LM("openai/x"), replicas=self.replicas)
        program = Program(
            "ns", "qa", UID, self.generation, str(self.resource_version), spec, self.request, self.status, stored
        )
        policies = (
            (Policy("qa", "policy-uid", "2026-01-01", 1, self.policy, self.rollout_status, "1"),) if self.policy else ()
        )
        return Snapshot(
            program=program,
            policies=policies,
            desired=self._resolve(),
            revisions=dict(self.revisions),
            workloads={name: self._workload(workload) for name, workload in self.workloads.items()},
            routes=self.routes,
            routes_version=str(self.routes.serial) if self.routes else None,
            gateway=self._gateway(),
            service_port=self.service_port,
        )

    def ready(self, revision: str) -> bool:
        """True when the revision can answer."""
        workload = self.workloads.get(revision)
        return bool(workload and self._ready_pods(workload))

    def effective(self, pod: GatewayPod) -> Mapping[str, int]:
        """What a gateway pod applies now."""
        if pod.obeyed is None:
            return {}
        watched = pod.obeyed.release is None or self.now < pod.guarded_until
        return effective_weights(pod.obeyed, {name for name in self.workloads if self.ready(name)}, watched)

    # What happens.

    def tick(self, seconds: float, requests: int = 0) -> None:
        """Lets time pass, routes arrive, and requests flow evenly."""
        pieces = max(1, min(requests, 20)) if seconds >= 0.1 else 1
        for piece in range(pieces):
            self.now += seconds / pieces
            for pod in self.gateways.values():
                self._arrive(pod)
                self._draw_table(pod)
                for table in pod.tables:
                    table.end(self.now)
            for _ in range(requests * (piece + 1) // pieces - requests * piece // pieces):
                self._request(self.chance.choice(list(self.gateways.values())))

    def operate(self) -> Plan:
        """One pass of the operator, with the write failures and the restart that were arranged."""
        for pod in self.gateways.values():
            if pod.reachable:
                pod.guarded_until = self.now + SWITCH_SECONDS
        snapshot = self.snapshot()
        decided = plan(snapshot, self.now)
        self._check(decided)
        try:
            if decided.status is not None:
                self._write(lambda: self._set_status(decided.status))
            for action in (*decided.urgent, *decided.actions):
                self._write(lambda action=action: self._act(action))  # type: ignore[misc]
        except WriteFailedError:
            return decided
        except RestartedError:
            self.memory = None
            return decided
        self.memory = decided.ledger
        for rollout in decided.rollouts:
            self.rollout_status = dict(rollout.status)
        self.said += [(self.now, said) for said in decided.events]
        return decided

    def settle(self, passes: int = 40, requests: int = 0, seconds: float = 1.0) -> None:
        """Lets the operator run for a while."""
        for _ in range(passes):
            self.tick(seconds, requests)
            self.operate()

    @property
    def ledger(self) -> Ledger:
        """The stored ledger."""
        return from_dict(self.status["release"], Ledger) if "release" in self.status else Ledger()

    def current_reason(self) -> str:
        """Reason of the condition Current."""
        return next((c["reason"] for c in self.status.get("conditions", ()) if c["type"] == "Current"), "")

    # The model's inside.

    def _resolve(self) -> DesiredRevision | Problem | None:
        if self.wanted is None:
            return Problem("Resolving", "nothing is asked for")
        if not self.registry_up:
            return Problem("RegistryUnavailable", "the registry is down")
        revision = Revision(
            f"qa-{self.wanted}", "2026", f"models:/qa/{self.wanted}", str(self.wanted), "openai/x", 60, {}, {}
        )
        return DesiredRevision(self.revisions.get(revision.name, revision), {})

    def _workload(self, workload: Workloads) -> Workload:
        fatal = None if workload.loads else Problem("ModelLoadFailed", "the model does not load: ModuleNotFoundError")
        ready = self._ready_pods(workload)
        return Workload(workload.replicas, ready, workload.crashed, fatal, promoted_at=workload.promoted_at)

    def _ready_pods(self, workload: Workloads) -> int:
        up = (
            workload.loads
            and self.now >= workload.created_at + workload.start_seconds
            and self.now >= workload.down_until
        )
        return workload.replicas if up else 0

    def _gateway(self) -> Gateway:
        states = {}
        for name, pod in self.gateways.items():
            if pod.reachable:
                states[name] = GatewayState(
                    name, str(pod.incarnation), self.now - pod.since, "", {UID: self._state(pod)}
                )
        unseen = frozenset(name for name, pod in self.gateways.items() if not pod.reachable)
        return Gateway(PORT, frozenset(self.gateways), states, unseen)

    def _state(self, pod: GatewayPod) -> ProgramState:
        revisions = {revision for table in pod.tables for revision in table.started}
        return ProgramState(
            serial=pod.obeyed.serial if pod.obeyed else 0,
            content=content_hash(pod.obeyed) if pod.obeyed else "",
            listening=True,
            effective=dict(self.effective(pod)),
            totals={
                name: add_counts(*(table.counts(name, self.now) for table in pod.tables)) for name in sorted(revisions)
            },
            tables=tuple(self._told(table) for table in pod.tables),
        )

    def _told(self, table: SimulatedTable) -> DrawTable:
        return DrawTable(
            number=table.number,
            age_seconds=self.now - table.opened_at,
            weights=table.weights,
            counts={name: table.counts(name, self.now) for name in table.weights},
            release=table.release,
            epoch=table.epoch,
            warm_seconds=table.warm_seconds,
            closed=table.closed,
            settled=table.settled,
        )

    def _arrive(self, pod: GatewayPod) -> None:
        for at, routes in list(pod.arriving):
            if at <= self.now:
                pod.arriving.remove((at, routes))
                if pod.obeyed is None or routes.serial >= pod.obeyed.serial:
                    pod.obeyed = routes

    def _draw_table(self, pod: GatewayPod) -> None:
        """Opens another table when the newest cannot go on."""
        if pod.obeyed is None:
            return
        weights, release = dict(self.effective(pod)), pod.obeyed.release
        ready = any(self.ready(candidate) for candidate in pod.obeyed.candidates)
        grown, pod.candidate_ready = ready and not pod.candidate_ready, ready
        pod.grown_at = self.now if grown else pod.grown_at
        newest = pod.tables[-1] if pod.tables else None
        asked = (release.id, release.epoch) if release else (None, 0)
        old = newest is not None and release is not None and self.now - newest.opened_at >= ROTATE_SECONDS
        same = newest is not None and newest.weights == weights and (newest.release, newest.epoch) == asked
        if newest is None or not same or grown or old:
            if newest is not None:
                newest.closed = True
            number = newest.number + 1 if newest else 1
            warm = self.now - pod.grown_at
            pod.tables.append(SimulatedTable(number, self.now, weights, asked[0], asked[1], warm))
        pod.tables = [table for table in pod.tables if not (table.settled and self.now - table.opened_at > 120)]

    def _request(self, pod: GatewayPod) -> None:
        if not pod.tables or not any(pod.tables[-1].weights.values()):
            return
        table = pod.tables[-1]
        revision = self.chance.choices(list(table.weights), list(table.weights.values()))[0]
        seconds, outcome = self._answer(revision, table.weights)
        if self.patience_seconds is not None and seconds > self.patience_seconds:
            seconds, outcome = self.patience_seconds, "cancelled"
        table.start(Request(revision, self.now, self.now + seconds, outcome))

    def _answer(self, revision: str, weights: Mapping[str, int]) -> tuple[float, str]:
        """After how many seconds, and how, a revision answers."""
        if not self.ready(revision):
            if any(self.ready(name) for name in weights):
                self.lost.append(f"{revision} cannot answer")
            return 0.0, "connection_failure"
        version = self.versions[int(revision.rpartition("-")[2])]
        if self.chance.random() < version.hang_share:
            return TIMEOUT_SECONDS, "timeout"
        if self.chance.random() < version.refusal_rate:
            return 0.0, "client_error"
        rate = 1 - (1 - version.failure_rate) * (1 - self.provider_failure_rate)
        if self.chance.random() < rate:
            return 0.05, "program_error"
        return version.latency_seconds * self.chance.uniform(0.5, 1.5), "ok"

    def _write(self, write: Callable[[], None]) -> None:
        if self.restart_after_writes is not None:
            if self.restart_after_writes == 0:
                self.restart_after_writes = None
                raise RestartedError
            self.restart_after_writes -= 1
        if self.fail_next_write:
            self.fail_next_write = False
            raise WriteFailedError
        write()

    def _set_status(self, status: Mapping[str, Any] | None) -> None:
        self.status = dict(status or {})
        self.resource_version += 1

    def _act(self, action: Action) -> None:
        match action:
            case CreateRevision(desired):
                self.revisions[desired.revision.name] = desired.revision
            case ServeRevision(revision, replicas, _):
                self._serve(revision, replicas)
            case WriteRoutes(routes, _):
                self._route(routes)
            case ApplyService(port, _):
                self.service_port = port
            case MarkStable(revision, at):
                self.workloads[revision].promoted_at = at
            case Delete(kind, name):
                self._delete(kind, name)

    def _serve(self, revision: Revision, replicas: int) -> None:
        known = self.workloads.get(revision.name)
        if known:
            known.replicas = replicas
            return
        version = self.versions[int(revision.version)]
        self.workloads[revision.name] = Workloads(revision, replicas, self.now, version.start_seconds, version.loads)

    def _route(self, routes: Routes) -> None:
        assert self.routes is None or routes.serial > self.routes.serial, "serials only grow"
        self.routes = routes
        for pod in self.gateways.values():
            pod.arriving.append((self.now + self.lag_seconds * self.chance.random(), routes))

    def _delete(self, kind: str, name: str) -> None:
        if kind == "Deployment":
            del self.workloads[name]
            if any(each.revision == name for each in self._in_flight()):
                self.lost.append(f"{name} was deleted with requests in flight")
            for pod in self.gateways.values():
                if pod.obeyed and pod.obeyed.weight(name) > 0:
                    self.lost.append(f"{name} was deleted with traffic")
        elif kind == "ControllerRevision":
            self.revisions.pop(name, None)

    def _in_flight(self) -> list[Request]:
        return [request for pod in self.gateways.values() for table in pod.tables for request in table.open]

    def _check(self, decided: Plan) -> None:
        """The invariants that can be seen in a plan."""
        for action in (*decided.urgent, *decided.actions):
            if isinstance(action, WriteRoutes):
                assert sum(backend.weight for backend in action.routes.backends) == TOTAL_WEIGHT, (
                    "desired weights sum to 10,000"
                )


CANARY = (Step(set_weight=10), Step(pause=Pause(requests=30)), Step(set_weight=50), Step(pause=Pause(seconds=10)))


def serving(seed: int = 0, steps: tuple[Step, ...] = CANARY, **options: Any) -> World:
    """A world in which version 1 serves under a canary policy."""
    world = World(seed)
    world.set_policy(*steps, **options)
    world.publish(1)
    world.want(1)
    world.settle(10)
    assert world.ledger.stable == "qa-1"
    assert world.ledger.stable_proven
    return world
