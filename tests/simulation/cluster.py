"""A model of the cluster for the simulation: pods that start late, crash and vanish, gateways that lag, a registry, an
API
whose writes may fail, and an operator that may restart between any two writes. The plan is the real one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dspy_contract.routes import TOTAL_WEIGHT, Routes, effective_weights
from dspy_contract.state import Counts, GatewayState, ProgramState
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
from dspy_operator.domain.ledger import Ledger
from dspy_operator.domain.plan import Plan, plan
from dspy_operator.domain.snapshot import DesiredRevision, Gateway, Problem, Program, Revision, Snapshot, Workload
from dspy_operator.domain.transition import Event

UID = "uid-1"
PORT = 10_000
TIMEOUT_SECONDS = 61.0
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
    loads: bool = True
    start_seconds: float = 3.0
    hangs: bool = False
    """Answers nothing: the gateway gives up after the program's timeout."""


@dataclass
class Workloads:
    """A revision's Deployment in the model."""

    revision: Revision
    replicas: int
    created_at: float
    start_seconds: float
    loads: bool
    crashes: int = 0
    down_until: float = 0.0
    promoted_at: float | None = None


@dataclass
class GatewayPod:
    """A gateway pod: the routes that it obeys, those that are on their way, and its cumulative counts."""

    since: float
    obeyed: Routes | None = None
    arriving: list[tuple[float, Routes]] = field(default_factory=list)
    counts: dict[str, Counts] = field(default_factory=dict)
    reachable: bool = True


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
        self.in_flight: list[tuple[float, GatewayPod, str]] = []

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
        known = self.memory
        stored = from_dict(self.status["release"], Ledger) if "release" in self.status else None
        if (
            known
            and known.release
            and stored
            and stored.release
            and known.release.candidate == stored.release.candidate
        ):
            same = (known.serial, known.request, known.checkpointed_at) == (
                stored.serial,
                stored.request,
                stored.checkpointed_at,
            )
            stored = known if same else stored
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
            gateway=self._gateway(),
            service_port=self.service_port,
        )

    def ready(self, revision: str) -> bool:
        """True when the revision can answer."""
        workload = self.workloads.get(revision)
        return bool(workload and self._ready_pods(workload))

    def effective(self, pod: GatewayPod) -> Mapping[str, int]:
        """What a gateway pod applies now."""
        return (
            effective_weights(pod.obeyed, {name for name in self.workloads if self.ready(name)}) if pod.obeyed else {}
        )

    # What happens.

    def tick(self, seconds: float, requests: int = 0) -> None:
        """Lets time pass, routes arrive, and requests flow."""
        self.now += seconds
        for pod in self.gateways.values():
            for at, routes in list(pod.arriving):
                if at <= self.now:
                    pod.arriving.remove((at, routes))
                    if pod.obeyed is None or routes.serial >= pod.obeyed.serial:
                        pod.obeyed = routes
        for ending in [ending for ending in self.in_flight if ending[0] <= self.now]:
            self.in_flight.remove(ending)
            _count(ending[1], ending[2], started=0, outcome="timeout")
        for _ in range(requests):
            self._request(self.chance.choice(list(self.gateways.values())))

    def operate(self) -> Plan:
        """One pass of the operator, with the write failures and the restart that were arranged."""
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
        return Workload(workload.replicas, ready, workload.crashes, fatal, promoted_at=workload.promoted_at)

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
                serial = pod.obeyed.serial if pod.obeyed else 0
                state = ProgramState(serial, "", True, dict(self.effective(pod)), dict(pod.counts))
                states[name] = GatewayState(name, "i", self.now - pod.since, "", {UID: state})
        return Gateway(PORT, frozenset(self.gateways), states)

    def _request(self, pod: GatewayPod) -> None:
        weights = self.effective(pod)
        if not any(weights.values()):
            return
        revision = self.chance.choices(list(weights), list(weights.values()))[0]
        if not self.ready(revision):
            if any(self.ready(name) for name in weights):
                self.lost.append(f"{revision} cannot answer")
            outcome = "connection_failure"
        else:
            version = self.versions[int(revision.rpartition("-")[2])]
            if version.hangs:
                self.in_flight.append((self.now + TIMEOUT_SECONDS, pod, revision))
                _count(pod, revision, started=1, outcome=None)
                return
            rate = 1 - (1 - version.failure_rate) * (1 - self.provider_failure_rate)
            outcome = "program_error" if self.chance.random() < rate else "ok"
        _count(pod, revision, started=1, outcome=outcome)

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
            if any(revision == name for _, _, revision in self.in_flight):
                self.lost.append(f"{name} was deleted with requests in flight")
            for pod in self.gateways.values():
                if pod.obeyed and pod.obeyed.weight(name) > 0:
                    self.lost.append(f"{name} was deleted with traffic")
        elif kind == "ControllerRevision":
            self.revisions.pop(name, None)

    def _check(self, decided: Plan) -> None:
        """The invariants that can be seen in a plan."""
        for action in (*decided.urgent, *decided.actions):
            if isinstance(action, WriteRoutes):
                assert sum(backend.weight for backend in action.routes.backends) == TOTAL_WEIGHT, (
                    "desired weights sum to 10,000"
                )


def _count(pod: GatewayPod, revision: str, started: int, outcome: str | None) -> None:
    counts = pod.counts.get(revision, Counts())
    outcomes = {**counts.outcomes, outcome: counts.outcomes.get(outcome, 0) + 1} if outcome else counts.outcomes
    pod.counts[revision] = Counts(counts.started + started, outcomes)


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
