"""One process that is the agent of every gateway pod: it obeys routes, counts pretended requests, and answers polls.

Books, tables and switches are the agent's own. Requests are pretended when a poll is answered: `RATE` a second for each
program with two revisions, drawn by the effective weights.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from dataclasses import dataclass, field

from aiohttp import web

from dspy_contract.outcomes import Outcome
from dspy_contract.routes import CONTENT_KEY, STATE_PORT, Routes, load_routes
from dspy_contract.state import FEATURES, GatewayState, Poll, ProgramState, dump_state, load_poll
from dspy_gateway.book import Book
from dspy_gateway.news import News
from dspy_gateway.server import ANSWER_SECONDS
from dspy_gateway.switches import Switches
from dspy_kube.client import Kube, Object
from dspy_kube.watch import Watch
from tests.simulation.behaviour import Answer
from tests.simulation.gateway import SimulatedGateway

RATE = 2.0
"""Requests a second at each gateway pod, for each program with two revisions."""

BURST = 10
"""A candidate that turns bad fails so many requests at once, at each gateway pod."""

POD_SELECTOR = {"labelSelector": "app.kubernetes.io/name=dspy-gateway"}
ROUTES_SELECTOR = {"labelSelector": "app.kubernetes.io/managed-by=dspy-operator"}


@dataclass
class Pod:
    """One gateway pod: its book, and the gateways of its namespace's programs by uid."""

    name: str
    namespace: str
    book: Book = field(default_factory=Book)
    switches: Switches = field(default_factory=Switches)
    news: News = field(default_factory=News)
    programs: dict[str, SimulatedGateway] = field(default_factory=dict)
    answered: dict[str, float] = field(default_factory=dict)


class Gateways:
    """All gateway pods of a cluster."""

    def __init__(self, kube: Kube) -> None:
        self.pods: dict[str, Pod] = {}
        """By address."""
        self.routes: dict[str, dict[str, Routes]] = defaultdict(dict)
        """By namespace and uid."""
        self.bad: set[str] = set()
        """The uids whose candidate fails every request."""
        self.told_at: dict[str, float] = {}
        """By uid: when an answer first told of failures."""
        self.lowered_at: dict[str, float] = {}
        """By uid: when routes without weight for the candidate were seen, after failures were told."""
        self.guarded: dict[str, float] = {}
        """By uid: when a poll last said that the guard looks."""
        self.changed: set[str] = set()
        """The names of the pods that have taken new routes and have told nobody yet."""
        self.polls = 0
        self._chance = random.Random(1)
        self._watches = [
            Watch(kube, "/api/v1/pods", POD_SELECTOR, _Pods(self)),
            Watch(kube, "/api/v1/configmaps", ROUTES_SELECTOR, _Routes(self), self._tell),
        ]

    async def run(self) -> None:
        """Watches, and answers on the agents' port of every address."""
        app = web.Application()
        app.add_routes([web.post("/state", self._state)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "0.0.0.0", STATE_PORT, backlog=1024).start()
        await asyncio.gather(*(watch.run() for watch in self._watches))

    async def turn_bad(self, uid: str, namespace: str) -> None:
        """From now on the program's candidate fails, beginning with a burst at each pod."""
        self.bad.add(uid)
        now = time.monotonic()
        for pod in list(self.pods.values()):
            gateway = pod.programs.get(uid)
            if pod.namespace != namespace or gateway is None or gateway.obeyed is None:
                continue
            self._draw(gateway, now, 2 * BURST)
            pod.news.note([uid], urgent=True)
            await pod.news.tell()

    async def _tell(self) -> None:
        """Wakes the polls of the pods that have new routes."""
        names, self.changed = self.changed, set()
        for pod in [pod for pod in self.pods.values() if pod.name in names]:
            await pod.news.tell()

    async def _state(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        address = request.transport.get_extra_info("sockname")[0]
        pod = self.pods.get(address)
        if pod is None:
            raise web.HTTPNotFound
        self.polls += 1
        poll = load_poll(await request.read())
        await pod.news.wait(poll.programs.keys(), poll.seen, poll.wait_seconds)
        wait = pod.answered.get("at", 0.0) + ANSWER_SECONDS - time.monotonic()
        await asyncio.sleep(max(0.0, wait))
        content = dump_state(self._answer(pod, poll))
        pod.answered["at"] = time.monotonic()
        return web.Response(body=content, content_type="application/json")

    def _answer(self, pod: Pod, poll: Poll) -> GatewayState:
        now = time.monotonic()
        for uid in poll.programs:
            self.pass_time(pod, uid, now)
        changed = pod.news.changed(poll.programs, poll.seen)
        programs: dict[str, ProgramState] = {}
        for uid in changed:
            gateway = pod.programs.get(uid)
            if gateway is None:
                continue
            state = gateway.answer(Poll({uid: poll.programs[uid]}), now)
            programs.update(state.programs)
            if uid in self.bad and uid not in self.told_at:
                self.told_at[uid] = time.monotonic()
        for uid, interest in poll.programs.items():
            if interest.guarding is not None:
                self.guarded[uid] = time.monotonic()
                pod.switches.renew(uid, interest.guarding, now)
        return GatewayState(pod.name, pod.book.incarnation, pod.news.token, programs, FEATURES)

    def pass_time(self, pod: Pod, uid: str, now: float) -> None:
        """Obeys routes, and pretends the requests since the last time."""
        routes = self.routes[pod.namespace].get(uid)
        if routes is None:
            return
        gateway = pod.programs.get(uid)
        if gateway is None:
            gateway = SimulatedGateway(pod.name, dict, lambda revision: self._outcome(uid, revision), pod.book)
            gateway.switches = pod.switches
            pod.programs[uid] = gateway
        gateway.ready = lambda: {backend.revision: 1 for backend in routes.backends}
        before = gateway.obeyed.serial if gateway.obeyed else -1
        gateway.tick(now, routes)
        if routes.serial != before:
            pod.news.note([uid], urgent=True)
        since = now - pod.answered.get(uid, now)
        pod.answered[uid] = now
        if len(routes.backends) > 1:
            self._draw(gateway, now, min(10, int(since * RATE + self._chance.random())))
            pod.news.note([uid], urgent=False)

    def _draw(self, gateway: SimulatedGateway, now: float, requests: int) -> None:
        for _ in range(requests):
            gateway.request(now, self._chance)
        gateway.tick(now, None)

    def _outcome(self, uid: str, revision: str) -> Answer:
        bad = uid in self.bad
        if bad:
            routes = next(each[uid] for each in self.routes.values() if uid in each)
            bad = bool(routes.release) and revision in routes.candidates
        return (0.0, Outcome.PROGRAM_ERROR) if bad else (0.2, Outcome.OK)


class _Pods:
    """What a watch tells of gateway pods."""

    def __init__(self, gateways: Gateways) -> None:
        self._gateways = gateways

    def put(self, item: Object) -> None:
        address = item.get("status", {}).get("podIP")
        metadata = item["metadata"]
        if address and address not in self._gateways.pods:
            self._gateways.pods[address] = Pod(metadata["name"], metadata["namespace"])

    def forget(self, item: Object) -> None:
        self._gateways.pods.pop(item.get("status", {}).get("podIP", ""), None)

    def keep(self, found: object, version: str) -> None:
        """Nothing: pods that went have no polls."""


class _Routes:
    """What a watch tells of routes."""

    def __init__(self, gateways: Gateways) -> None:
        self._gateways = gateways

    def put(self, item: Object) -> None:
        content = item.get("data", {}).get(CONTENT_KEY)
        if content is None or not item["metadata"]["name"].endswith("-routes"):
            return
        routes = load_routes(content)
        namespace = item["metadata"]["namespace"]
        self._gateways.routes[namespace][routes.uid] = routes
        gateways = self._gateways
        weight = sum(routes.weight(candidate) for candidate in routes.candidates)
        if routes.uid in gateways.told_at and not weight:
            gateways.lowered_at.setdefault(routes.uid, time.monotonic())
        # An agent obeys new routes within milliseconds, and tells at once.
        for pod in gateways.pods.values():
            if pod.namespace == namespace:
                gateways.pass_time(pod, routes.uid, time.monotonic())
                gateways.changed.add(pod.name)

    def forget(self, item: Object) -> None:
        """Nothing: programs are not deleted here."""

    def keep(self, found: object, version: str) -> None:
        """Nothing, likewise."""
