"""The real operator in a simulated cluster: its parts, queues, poller, store and watches, on virtual time.

What is simulated: the API server (`api.py`), kubelets, gateways with their agents, and the model registry.
"""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Callable, Mapping
from typing import Any, cast

from dspy_contract.routes import (
    CONTENT_KEY,
    REVISION_LABEL,
    TOTAL_WEIGHT,
    Routes,
    content_hash,
    effective_weights,
    load_ports,
    load_routes,
)
from dspy_contract.state import DrawTable, GatewayState, Poll, ProgramState
from dspy_kube.client import ApiException, Kube, Object
from dspy_operator.agent_client import AgentError
from dspy_operator.api.names import GATEWAY_LABEL, GATEWAY_NAME
from dspy_operator.domain.analysis.evidence import add_counts
from dspy_operator.domain.ledger import Ledger
from dspy_operator.domain.snapshot import Problem
from dspy_operator.domain.snapshot import Version as ResolvedVersion
from dspy_operator.domain.stored_ledger import read_ledger
from dspy_operator.handlers import keys_of
from dspy_operator.parts import Parts, assemble
from dspy_operator.registry.mlflow import Registry
from dspy_operator.settings import RegistrySettings, Settings
from tests.simulation.api import ApiServer, Call
from tests.simulation.clock import VirtualLoop
from tests.simulation.clock import close as close_loop
from tests.simulation.cluster import (
    ROTATE_SECONDS,
    START,
    SWITCH_SECONDS,
    TIMEOUT_SECONDS,
    Request,
    SimulatedTable,
    Version,
)

NAMESPACE, PROGRAM = "ns", "qa"
TICK_SECONDS = 0.1
READY = {"type": "Ready", "status": "True"}


class SimulatedRegistry:
    """Every version resolves while the registry is up."""

    url = "http://registry"

    def __init__(self) -> None:
        self.up = True

    async def resolve(self, uri: str) -> ResolvedVersion | Problem:
        """What a uri means."""
        if not self.up:
            return Problem("RegistryUnavailable", "The registry did not answer")
        number = uri.rpartition("/")[2]
        return ResolvedVersion(uri, number, f"m-{number}", f"digest-{number}", "3.12", "3.4.1")

    async def close(self) -> None:
        """Nothing is open."""


class SimulatedAgent:
    """The agent of one gateway pod, for the one program of the simulation."""

    def __init__(self, world: OperatedWorld, pod: str) -> None:
        self._world = world
        self.pod = pod
        self.obeyed: Routes | None = None
        self.tables: list[SimulatedTable] = []
        self.switch = (0, 0.0)
        self.reachable = True
        self._candidate_ready = False
        self._grown_at = 0.0

    def answer(self, poll: Poll) -> GatewayState:
        """The whole state, for whoever asks; renews the switch of what is guarded."""
        now = self._world.now
        for interest in poll.programs.values():
            if interest.guarding is not None:
                self.switch = (interest.guarding, now + SWITCH_SECONDS)
            self.tables = [table for table in self.tables if not (table.settled and table.number <= interest.kept)]
        programs = {self.obeyed.uid: self._state(now)} if self.obeyed else {}
        return GatewayState(self.pod, "i", now - START, "", programs)

    @property
    def effective(self) -> Mapping[str, int]:
        """The weights that it applies."""
        if self.obeyed is None:
            return {}
        release, until = self.switch
        watched = self.obeyed.release is None or (release == self.obeyed.release.id and self._world.now < until)
        return effective_weights(self.obeyed, self._world.ready_revisions(), watched)

    def tick(self) -> None:
        """Obeys the newest routes and opens another table when the newest cannot go on."""
        now, routes = self._world.now, self._world.routes
        if routes is not None and (self.obeyed is None or routes.serial > self.obeyed.serial):
            self.obeyed = routes
        for table in self.tables:
            table.end(now)
        if self.obeyed is None:
            return
        weights, release = dict(self.effective), self.obeyed.release
        ready = any(each in self._world.ready_revisions() for each in self.obeyed.candidates)
        grown, self._candidate_ready = ready and not self._candidate_ready, ready
        self._grown_at = now if grown else self._grown_at
        asked = (release.id, release.epoch) if release else (None, 0)
        newest = self.tables[-1] if self.tables else None
        stays = newest is not None and newest.weights == weights and (newest.release, newest.epoch) == asked
        if newest is None or not stays or grown or (release and now - newest.opened_at >= ROTATE_SECONDS):
            for table in self.tables:
                table.closed = True
            number = newest.number + 1 if newest else 1
            warm = now - self._grown_at
            self.tables.append(SimulatedTable(number, now, weights, asked[0], asked[1], warm))

    def request(self, chance: random.Random) -> None:
        """Draws one request."""
        if not self.tables or not any(self.tables[-1].weights.values()):
            return
        table = self.tables[-1]
        revision = chance.choices(list(table.weights), list(table.weights.values()))[0]
        seconds, outcome = self._world.answer_of(revision)
        table.start(Request(revision, self._world.now, self._world.now + seconds, outcome))

    def _state(self, now: float) -> ProgramState:
        assert self.obeyed is not None
        revisions = {revision for table in self.tables for revision in table.started}
        return ProgramState(
            serial=self.obeyed.serial,
            content=content_hash(self.obeyed),
            listening=True,
            effective=dict(self.effective),
            totals={name: add_counts(*(table.counts(name, now) for table in self.tables)) for name in revisions},
            tables=tuple(_told(table, now) for table in self.tables),
        )


def _told(table: SimulatedTable, now: float) -> DrawTable:
    return DrawTable(
        number=table.number,
        age_seconds=now - table.opened_at,
        weights=table.weights,
        counts={name: table.counts(name, now) for name in table.weights},
        release=table.release,
        epoch=table.epoch,
        warm_seconds=table.warm_seconds,
        closed=table.closed,
        settled=table.settled,
    )


class SimulatedAgents:
    """How the operator reaches the agents; implements `agent_client.Agents`."""

    def __init__(self, world: OperatedWorld) -> None:
        self._world = world

    async def ask(self, address: str, token: str, poll: Poll) -> GatewayState:
        """What an agent answers, after a quarter of a second, as a real one does while nothing is urgent."""
        await asyncio.sleep(min(poll.wait_seconds, 0.25))
        agent = self._world.agents[address]
        if not (agent.reachable and self._world.reachable):
            raise AgentError("not reachable")
        return agent.answer(poll)

    async def close(self) -> None:
        """Nothing is open."""


class OperatedWorld:
    """A cluster with one program, its users, and the real operator. Time passes only in `settle`."""

    def __init__(self, seed: int = 0, steps: list[dict[str, Any]] | None = None, **policy: Any) -> None:
        self.loop = VirtualLoop(START)
        asyncio.set_event_loop(self.loop)
        self.chance = random.Random(seed)
        self.api = ApiServer()
        self.registry = SimulatedRegistry()
        self.versions: dict[int, Version] = {}
        self.agents: dict[str, SimulatedAgent] = {}
        self.rate = 0
        self.served: list[tuple[float, str, str]] = []
        self.reachable = True
        self.leads = True
        self._born: dict[str, float] = {}
        self._tasks: list[asyncio.Task[Any]] = []
        self.policy = {"steps": steps, **policy} if steps else None
        self.loop.run_until_complete(self._begin())

    # What users do.

    def publish(self, number: int, **behaviour: Any) -> None:
        """Puts a version into the registry."""
        self.versions[number] = Version(number, **behaviour)

    def want(self, number: int) -> None:
        """Asks for a version in the program's spec."""
        if self.api.get("dspyprograms", NAMESPACE, PROGRAM) is None:
            spec = {"model": {"uri": f"models:/qa/{number}"}, "lm": {"model": "openai/x"}}
            self.api.put("dspyprograms", {"metadata": {"name": PROGRAM, "namespace": NAMESPACE}, "spec": spec})
            return
        self.edit("dspyprograms", lambda item: item["spec"]["model"].update(uri=f"models:/qa/{number}"))

    def edit(self, resource: str, change: Callable[[Object], None], name: str = PROGRAM) -> None:
        """Edits an object."""
        self.api.change(resource, NAMESPACE, name, change)

    def ask(self, request: str) -> None:
        """Annotates the program with a request."""
        self.edit("dspyprograms", lambda item: item["metadata"].update(annotations={"dspy.dev/request": request}))

    def fail(self, fault: Callable[[Call], ApiException | None]) -> None:
        """Has the API answer some calls with an error, until `heal`."""
        self.api.faults.append(lambda call, query: fault(call))

    def heal(self) -> None:
        """The API answers again."""
        self.api.faults.clear()

    def restart_operator(self) -> None:
        """Ends the operator and starts another, which remembers nothing."""
        self.loop.run_until_complete(self._end_operator())
        self.loop.run_until_complete(self._start_operator())

    def settle(self, seconds: float, rate: int | None = None) -> None:
        """Lets time pass, with so many requests a second."""
        self.rate = self.rate if rate is None else rate
        self.loop.pass_time(seconds)

    def close(self) -> None:
        """Ends everything."""
        self.loop.run_until_complete(self._end_operator())
        close_loop(self.loop, [self._ticking])

    # What can be seen.

    @property
    def now(self) -> float:
        """Virtual seconds."""
        return self.loop.time()

    @property
    def status(self) -> dict[str, Any]:
        """The program's status."""
        return dict((self.api.get("dspyprograms", NAMESPACE, PROGRAM) or {}).get("status", {}))

    @property
    def ledger(self) -> Ledger:
        """The stored ledger."""
        return read_ledger(self.status).ledger or Ledger()

    @property
    def routes(self) -> Routes | None:
        """The routes as they are written."""
        item = self.api.get("configmaps", NAMESPACE, f"{PROGRAM}-routes")
        return load_routes(item["data"][CONTENT_KEY]) if item else None

    def revision(self, number: int) -> str:
        """The name of a version's revision."""
        found = [
            name
            for name, item in self.api.named("controllerrevisions", NAMESPACE).items()
            if item["data"]["model"]["version"] == str(number)
        ]
        return found[-1] if found else ""

    def weight(self, number: int) -> int:
        """The desired weight of a version in the routes, in basis points."""
        return self.routes.weight(self.revision(number)) if self.routes else 0

    def traffic(self, number: int) -> int:
        """The effective weight of a version, in the gateway pod where it is greatest."""
        return max((agent.effective.get(self.revision(number), 0) for agent in self.agents.values()), default=0)

    def condition(self, kind: str) -> tuple[str, str, str]:
        """A condition of the program: status, reason, message."""
        for each in self.status.get("conditions", ()):
            if each["type"] == kind:
                return each["status"], each["reason"], each["message"]
        return "", "", ""

    def events(self) -> list[str]:
        """The reasons of all events, in their order."""
        return [item["reason"] for item in self.api.named("events", NAMESPACE).values()]

    def ready_revisions(self) -> set[str]:
        """The revisions with a pod that is ready."""
        pods = self.api.named("pods", NAMESPACE).values()
        return {
            pod["metadata"]["labels"].get(REVISION_LABEL, "") for pod in pods if READY in pod["status"]["conditions"]
        }

    def answer_of(self, revision: str) -> tuple[float, str]:
        """After how many seconds, and how, a revision answers a request."""
        item = self.api.get("controllerrevisions", NAMESPACE, revision)
        if item is None or revision not in self.ready_revisions():
            return 0.0, "connection_failure"
        version = self.versions[int(item["data"]["model"]["version"])]
        if self.chance.random() < version.hang_share:
            return TIMEOUT_SECONDS, "timeout"
        if self.chance.random() < version.failure_rate:
            return 0.05, "program_error"
        return version.latency_seconds * self.chance.uniform(0.5, 1.5), "ok"

    # Its inside.

    async def _begin(self) -> None:
        for name in ("dspy-gateway-abc-1", "dspy-gateway-abc-2"):
            self.agents[name] = SimulatedAgent(self, name)
        if self.policy:
            steps = self.policy.pop("steps")
            spec = {
                "programRef": {"name": PROGRAM},
                "strategy": {"type": "Canary", "canary": {"steps": steps}},
                **self.policy,
            }
            self.api.put("dspyrollouts", {"metadata": {"name": PROGRAM, "namespace": NAMESPACE}, "spec": spec})
        self._ticking = asyncio.ensure_future(self._tick_for_ever())
        await self._start_operator()

    async def _start_operator(self) -> None:
        settings = Settings(registries={"default": RegistrySettings(url="http://registry")})
        registries = {"default": cast("Registry", self.registry)}
        kube = cast("Kube", self.api)
        self.parts: Parts = assemble(
            kube,
            registries,
            SimulatedAgents(self),
            settings,
            lambda namespace: "token",
            lambda: self.leads,
            lambda: self.now,
        )
        self._tasks = [
            *(asyncio.ensure_future(watch.run()) for watch in self.parts.watches),
            asyncio.ensure_future(self._kopf(self.parts)),
            asyncio.ensure_future(self.parts.looks.run(2)),
            asyncio.ensure_future(self.parts.passes.run(2)),
        ]

    async def _end_operator(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.parts.poller.close()

    async def _kopf(self, parts: Parts) -> None:
        """What kopf does for the operator: each object at the start, and each change, wakes its keys."""
        for (resource, _, _), item in list(self.api.objects.items()):
            for key in keys_of(resource, item):
                parts.passes.add(key)
        async for resource, item in self.api.everything():
            for key in keys_of(resource, item):
                parts.passes.add(key)

    async def _tick_for_ever(self) -> None:
        owed = 0.0
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._kubelet()
            for agent in self.agents.values():
                agent.tick()
            owed += self.rate * TICK_SECONDS
            while owed >= 1:
                owed -= 1
                self.chance.choice(list(self.agents.values())).request(self.chance)

    def _kubelet(self) -> None:
        pods = self.api.named("pods", NAMESPACE)
        deployments = self.api.named("deployments", NAMESPACE)
        for name, deployment in deployments.items():
            for number in range(deployment["spec"]["replicas"]):
                pod = f"{name}-abc-{number + 1}"
                if pod not in pods:
                    self._born[pod] = self.now
                    self.api.put("pods", _pod(pod, deployment))
        for name, item in pods.items():
            owner = item["metadata"]["ownerReferences"][0]["name"].removesuffix("-abc")
            if owner not in deployments:
                self.api.remove("pods", NAMESPACE, name)
            elif READY not in item["status"]["conditions"] and self._is_up(item, name):
                self.api.change("pods", NAMESPACE, name, lambda item: item["status"].update(conditions=[READY]))

    def _is_up(self, pod: Object, name: str) -> bool:
        revision = pod["metadata"]["labels"].get(REVISION_LABEL)
        item = self.api.get("controllerrevisions", NAMESPACE, revision) if revision else None
        version = self.versions[int(item["data"]["model"]["version"])] if item else Version(0, start_seconds=1.0)
        return version.loads and self.now - self._born[name] >= version.start_seconds


def _pod(name: str, deployment: Object) -> Object:
    owner = {"kind": "ReplicaSet", "name": f"{deployment['metadata']['name']}-abc", "uid": f"rs-{name}"}
    return {
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": copy.deepcopy(deployment["spec"]["template"]["metadata"]["labels"]),
            "ownerReferences": [owner],
        },
        "status": {"podIP": name, "conditions": [], "containerStatuses": []},
    }


def check(world: OperatedWorld) -> None:
    """The invariants that can be seen at any moment."""
    routes, ledger = world.routes, world.ledger
    if routes is None:
        return
    assert sum(backend.weight for backend in routes.backends) == TOTAL_WEIGHT, "4: desired weights sum to 10,000"
    for refused in ledger.refused:
        if refused.revision != ledger.stable:
            assert routes.weight(refused.revision) == 0, "9: a refused revision has no weight"
    gateway = world.api.get("configmaps", NAMESPACE, GATEWAY_NAME)
    if gateway is not None:
        assert gateway["metadata"]["labels"][GATEWAY_LABEL] == "true"
        ports = load_ports(gateway["data"][CONTENT_KEY]).ports
        assert len({port.port for port in ports.values()}) == len(ports), "13: no port is shared"
