"""One process that is the agent of every gateway pod, and answers for every runtime: it obeys routes, counts pretended
requests, and answers polls.

Books, tables and switches are the agent's own. Requests are pretended when a poll is answered: `RATE` a second for each
program with two revisions, drawn by the effective weights. The pods of a namespace draw alike, so that this process
is not what is measured.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from aiohttp import web

from dspy_contract.description import DESCRIPTION_PATH, DROPPED_SETTINGS, UNDERIVABLE
from dspy_contract.outcomes import Outcome
from dspy_contract.routes import CONTENT_KEY, RUNTIME_PROBE_PORT, STATE_PORT, Routes, load_routes
from dspy_contract.state import FEATURES, GatewayState, Poll, ProgramState, dump_state, load_poll
from dspy_gateway.book import Book
from dspy_gateway.changes import Changes
from dspy_gateway.server import ANSWER_SECONDS
from dspy_gateway.switches import Switches
from dspy_kube.client import Kube, Object
from dspy_kube.watch import Watch
from tests.simulation.behaviour import Answer
from tests.simulation.gateway import SimulatedGateway

RATE = 2.0
"""Requests a second at each gateway pod, for each program with two revisions."""

BURST = 10
"""A candidate that turns bad fails so many requests at once: more than the judgement asks for, so that what is timed is
the way from the gateway to the routes."""

POD_SELECTOR = {"labelSelector": "app.kubernetes.io/name=dspy-gateway"}
ROUTES_SELECTOR = {"labelSelector": "app.kubernetes.io/managed-by=dspy-operator"}


FRESH_SECONDS = 0.4
"""What one pod of a namespace was told of a program is told to the other one within this time."""


@dataclass
class Program:
    """One program as every gateway pod of its namespace draws it."""

    gateway: SimulatedGateway
    drawn_at: float
    told: ProgramState | None = None
    told_at: float = 0.0


@dataclass
class Pod:
    """One gateway pod. `incarnation` is its own, though its tables are the namespace's."""

    name: str
    namespace: str
    incarnation: str
    changes: Changes = field(default_factory=Changes)
    answered_at: float = 0.0


class Gateways:
    """All gateway pods of a cluster."""

    def __init__(self, kube: Kube) -> None:
        self.pods: dict[str, Pod] = {}
        """By address."""
        self.programs: dict[str, Program] = {}
        """By uid."""
        self.routes: dict[str, dict[str, Routes]] = defaultdict(dict)
        """By namespace and uid."""
        self.bad: set[str] = set()
        """The uids whose candidate fails every request."""
        self.candidates: dict[str, tuple[str, ...]] = {}
        """By uid: the candidates of the routes that were seen last."""
        self.told_at: dict[str, float] = {}
        """By uid: when an answer first told of failures."""
        self.lowered_at: dict[str, float] = {}
        """By uid: when routes without weight for the candidate were seen, after failures were told."""
        self.guarded: dict[str, tuple[float, float]] = {}
        """By uid: when the last poll that said that the guard looks was asked, and when it was answered."""
        self.changed: set[str] = set()
        """The namespaces whose pods have taken new routes and have told nobody yet."""
        self.polls = 0
        self._failed: Counter[str] = Counter()
        self._chance = random.Random(1)
        self._books: defaultdict[str, Book] = defaultdict(Book)
        self._switches: defaultdict[str, Switches] = defaultdict(Switches)
        self._by_namespace: defaultdict[str, dict[str, Pod]] = defaultdict(dict)
        """By namespace and address."""
        self._watches = [
            Watch(kube, "/api/v1/pods", POD_SELECTOR, _Pods(self)),
            Watch(kube, "/api/v1/configmaps", ROUTES_SELECTOR, _Routes(self), self._tell),
        ]

    async def run(self) -> None:
        """Watches, and answers on the agents' port of every address."""
        app = web.Application()
        app.add_routes([web.post("/state", self._state), web.get(DESCRIPTION_PATH, _description)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        for port in (STATE_PORT, RUNTIME_PROBE_PORT):
            await web.TCPSite(runner, "0.0.0.0", port, backlog=1024).start()
        await asyncio.gather(*(watch.run() for watch in self._watches))

    def add(self, address: str, pod: Pod) -> None:
        """A pod has an address."""
        self.pods[address] = self._by_namespace[pod.namespace][address] = pod

    def remove(self, address: str) -> None:
        """A pod went."""
        pod = self.pods.pop(address, None)
        if pod is not None:
            del self._by_namespace[pod.namespace][address]

    async def turn_bad(self, uid: str, namespace: str) -> None:
        """From now on the program's candidate fails, beginning with a burst."""
        self.bad.add(uid)
        now = time.monotonic()
        while self._failed[uid] < BURST:
            self._draw(self.programs[uid], now, 1)
        for pod in self._pods_of(namespace):
            pod.changes.note([uid], urgent=True)
            await pod.changes.tell()

    async def _tell(self) -> None:
        """Wakes the polls of the pods that have new routes."""
        namespaces, self.changed = self.changed, set()
        for pod in [pod for namespace in namespaces for pod in self._pods_of(namespace)]:
            await pod.changes.tell()

    async def _state(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        address = request.transport.get_extra_info("sockname")[0]
        pod = self.pods.get(address)
        if pod is None:
            raise web.HTTPNotFound
        self.polls += 1
        asked = time.monotonic()
        poll = load_poll(await request.read())
        await pod.changes.wait(poll.programs.keys(), poll.seen, poll.wait_seconds)
        wait = pod.answered_at + ANSWER_SECONDS - time.monotonic()
        await asyncio.sleep(max(0.0, wait))
        content = dump_state(self._answer(pod, poll, asked))
        pod.answered_at = time.monotonic()
        return web.Response(body=content, content_type="application/json")

    def _answer(self, pod: Pod, poll: Poll, asked: float) -> GatewayState:
        now = time.monotonic()
        for uid, interest in poll.programs.items():
            self.pass_time(pod.namespace, uid, now)
            if interest.guarding is not None:
                self.guarded[uid] = (asked, now)
                self._switches[pod.namespace].renew(uid, interest.guarding, now)
        known = [uid for uid in pod.changes.since(poll.programs, poll.seen) if uid in self.programs]
        programs = {uid: self._told(self.programs[uid], uid, poll, now) for uid in known}
        for uid in self.bad.intersection(known):
            self.told_at.setdefault(uid, time.monotonic())
        return GatewayState(pod.name, pod.incarnation, pod.changes.token, programs, FEATURES)

    def _told(self, program: Program, uid: str, poll: Poll, now: float) -> ProgramState:
        """What is told of a program; the same to each pod of its namespace for a moment."""
        if program.told is None or now - program.told_at > FRESH_SECONDS:
            program.told = program.gateway.answer(Poll({uid: poll.programs[uid]}), now).programs[uid]
            program.told_at = now
        return program.told

    def pass_time(self, namespace: str, uid: str, now: float) -> None:
        """Obeys routes, and pretends the requests since the last time."""
        routes = self.routes[namespace].get(uid)
        if routes is None:
            return
        program = self.programs.get(uid)
        if program is None:
            gateway = SimulatedGateway(
                namespace, dict, lambda revision: self._outcome(uid, revision), self._books[namespace]
            )
            gateway.switches = self._switches[namespace]
            program = self.programs[uid] = Program(gateway, now)
        gateway = program.gateway
        since = now - program.drawn_at
        if gateway.obeyed is not None and gateway.obeyed.serial == routes.serial and since < FRESH_SECONDS:
            return
        gateway.ready = lambda: {backend.revision: 1 for backend in routes.backends}
        before = gateway.obeyed.serial if gateway.obeyed else -1
        gateway.tick(now, routes)
        program.drawn_at = now
        if len(routes.backends) > 1:
            self._draw(program, now, min(10, int(since * RATE + self._chance.random())))
        if routes.serial != before:
            program.told = None
        for pod in self._pods_of(namespace):
            pod.changes.note([uid], urgent=routes.serial != before)

    def _draw(self, program: Program, now: float, requests: int) -> None:
        for _ in range(requests):
            program.gateway.request(now, self._chance)
        program.gateway.tick(now, None)
        program.told = None

    def _pods_of(self, namespace: str) -> list[Pod]:
        return list(self._by_namespace[namespace].values())

    def _outcome(self, uid: str, revision: str) -> Answer:
        bad = uid in self.bad and revision in self.candidates[uid]
        self._failed[uid] += bad
        return (0.0, Outcome.PROGRAM_ERROR) if bad else (0.2, Outcome.OK)


async def _description(_: web.Request) -> web.Response:
    """What a runtime that leaves nothing out says to the operator."""
    return web.json_response({DROPPED_SETTINGS: [], UNDERIVABLE: []})


class _Pods:
    """What a watch tells of gateway pods."""

    def __init__(self, gateways: Gateways) -> None:
        self._gateways = gateways

    def put(self, item: Object, listed_at: str = "") -> None:
        address = item.get("status", {}).get("podIP")
        metadata = item["metadata"]
        if address and address not in self._gateways.pods:
            self._gateways.add(address, Pod(metadata["name"], metadata["namespace"], metadata["uid"]))

    def forget(self, item: Object) -> None:
        self._gateways.remove(item.get("status", {}).get("podIP", ""))

    def retain(self, found: object, version: str) -> None:
        """Nothing: pods that went have no polls."""


class _Routes:
    """What a watch tells of routes."""

    def __init__(self, gateways: Gateways) -> None:
        self._gateways = gateways

    def put(self, item: Object, listed_at: str = "") -> None:
        content = item.get("data", {}).get(CONTENT_KEY)
        if content is None or not item["metadata"]["name"].endswith("-routes"):
            return
        routes = load_routes(content)
        namespace = item["metadata"]["namespace"]
        self._gateways.routes[namespace][routes.uid] = routes
        gateways = self._gateways
        weight = sum(routes.backend(candidate).weight for candidate in routes.candidates)
        if routes.uid in gateways.told_at and not weight:
            gateways.lowered_at.setdefault(routes.uid, time.monotonic())
        # An agent obeys new routes within milliseconds, and tells at once.
        gateways.candidates[routes.uid] = routes.candidates
        gateways.pass_time(namespace, routes.uid, time.monotonic())
        gateways.changed.add(namespace)

    def forget(self, item: Object) -> None:
        """Nothing: programs are not deleted here."""

    def retain(self, found: object, version: str) -> None:
        """Nothing, likewise."""
