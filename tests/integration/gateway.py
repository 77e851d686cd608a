"""A real Envoy with its real agent on loopback, fed by hand instead of by an API server, and upstreams to route to."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import socket
import sysconfig
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp
from aiohttp import web

from dspy_contract.routes import Backend, Port, PortTable, Routes
from dspy_contract.state import Counts, Interest, Poll, ProgramState
from dspy_gateway.agent import Agent
from dspy_gateway.resources import DesiredState, Endpoint, obeyed
from dspy_gateway.settings import Settings
from dspy_gateway.xds import ROUTES

ENVOY = Path(sysconfig.get_path("scripts")) / "envoy"
WAIT_SECONDS = 60.0
PORTS_EACH = 3_500
"""Of a process that tests, from 12,000 on, for five of them: below a cluster's node ports and the kernel's own."""


def _ports() -> Iterator[int]:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 5
    begin = random.randrange(PORTS_EACH)
    for place in itertools.count(begin):
        yield 12_000 + worker * PORTS_EACH + place % PORTS_EACH


_PORTS = _ports()


async def until(
    condition: Callable[[], bool] | Callable[[], Awaitable[bool]], words: str, seconds: float = WAIT_SECONDS
) -> None:
    """Waits for a condition; fails with the words when it does not come."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                result = condition()
                if (await result) if isinstance(result, Awaitable) else result:
                    return
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {seconds:.0f} s: {words}") from None


def free_port() -> int:
    """A port of loopback that nobody holds now, and that nobody else is given before it is used.

    Not one that the kernel picks: those it also gives to whoever opens a connection in the meantime. A process of
    pytest has ports of its own, and begins anywhere among them for the sake of other runs on the machine.
    """
    while True:
        port = next(_PORTS)
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


@dataclass
class Upstream:
    """A runtime pod's stand-in: answers with its name, its outcome, and after its delay."""

    name: str
    port: int = 0
    outcome: str = "ok"
    status: int = 200
    delay_seconds: float = 0.0
    flags: str = ""
    tokens: str = ""
    cost: str = ""
    score: str = ""
    seen: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)
    """Predictions by what they said of a cache."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Upstream]:
        """Serves until left."""

        async def answer(request: web.Request) -> web.Response:
            self.seen[request.path] += 1
            if request.method == "POST":
                self.told[request.headers.get("x-dspy-cache", "")] += 1
            await request.read()
            if self.delay_seconds:
                await asyncio.sleep(self.delay_seconds)
            return web.Response(status=self.status, text=self.name, headers=self._headers())

        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app, access_log=None, keepalive_timeout=75, shutdown_timeout=0.5)
        await runner.setup()
        self.port = self.port or free_port()
        await web.TCPSite(runner, "127.0.0.1", self.port).start()
        try:
            yield self
        finally:
            await runner.cleanup()

    def _headers(self) -> dict[str, str]:
        said = {
            "x-dspy-outcome": self.outcome,
            "x-dspy-flags": self.flags,
            "x-dspy-tokens": self.tokens,
            "x-dspy-cost-nanousd": self.cost,
            "x-dspy-score": self.score,
        }
        return {name: value for name, value in said.items() if value}

    @property
    def endpoint(self) -> Endpoint:
        """The upstream as an endpoint that is ready."""
        return Endpoint("127.0.0.1", ready=True, serving=True, port=self.port)


class Gateway:
    """An Envoy and its agent."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(
            pod="gateway-a", folder=folder, address="127.0.0.1", probe_port=free_port(), drain_notice_seconds=0.1
        )
        self.agent = Agent(self.settings)
        self.ports: dict[str, int] = {}
        self.envoy: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def start_agent(self) -> None:
        """Starts the agent anew, with what its snapshot holds."""
        self.agent = Agent(self.settings)
        self.agent.prepare()
        await self.agent.open()
        self._reader = asyncio.create_task(self.agent.run())

    async def stop_agent(self) -> None:
        """Ends the agent's tasks and sockets, as a killed process would."""
        if self._reader is not None:
            self._reader.cancel()
        await self.agent.close()

    async def start_envoy(self) -> None:
        """Starts Envoy as its container does."""
        log = (self.settings.folder / "envoy.log").open("ab")
        self.envoy = await asyncio.create_subprocess_exec(
            ENVOY,
            "-c",
            str(self.settings.folder / "bootstrap.yaml"),
            "--disable-hot-restart",
            "--concurrency",
            "1",
            "--log-level",
            "warning",
            "--drain-time-s",
            "10",
            stdout=log,
            stderr=log,
        )
        log.close()

    async def kill_envoy(self) -> None:
        """Kills Envoy without warning."""
        assert self.envoy is not None
        if self.envoy.returncode is None:
            os.kill(self.envoy.pid, signal.SIGKILL)
        await self.envoy.wait()

    async def serve(self, inputs: DesiredState) -> None:
        """Gives the agent its inputs and waits until Envoy has confirmed every program's serial."""
        await self.agent.update(inputs)
        await self.confirmed()

    async def confirmed(self) -> None:
        """Waits until Envoy holds the newest routes of every program."""

        def all_confirmed() -> bool:
            return all(map(is_confirmed, self.agent.desired.routes))

        def is_confirmed(uid: str) -> bool:
            serial = self.agent.desired.routes[uid].serial
            program = self.agent.state({uid: Interest()}).programs.get(uid)
            acked = self.agent.discovery.acked((ROUTES, uid))
            return program is None or (acked and program.listening and program.serial == serial)

        await until(all_confirmed, "every serial is confirmed")

    async def ready(self) -> bool:
        """Whether Envoy's own probe says that it is ready."""
        try:
            url = f"http://127.0.0.1:{self.settings.probe_port}/readyz"
            async with aiohttp.ClientSession() as session, session.get(url) as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    async def poll(self, uid: str, guarding: int | None = None, kept: int = 0) -> ProgramState:
        """What the agent says of a program when it is asked now."""
        state = await self.agent.answer(Poll({uid: Interest(guarding, kept)}))
        return state.programs[uid]

    async def guarded(self, uid: str, release: int, candidate: str) -> None:
        """Renews a candidate's switch until its weight is in force, and has stood for long enough to be judged."""

        async def weighs() -> bool:
            weight = (await self.poll(uid, guarding=release)).effective.get(candidate, 0)
            _, _, number = obeyed(self.agent.discovery.confirmed_version((ROUTES, uid)))
            newest = self.agent.book.page(uid).tables.newest
            return weight > 0 and newest is not None and newest.judged and newest.number == number

        await until(weighs, "the candidate has its weight, for a second")

    async def counted(self, uid: str) -> dict[str, Counts]:
        """A program's totals after a look at Envoy's counters."""
        await self.agent.look()
        return self.agent.book.page(uid).sums.totals()

    def url(self, uid: str, path: str = "/predict") -> str:
        """The address of a program's listener."""
        return f"http://127.0.0.1:{self.agent.desired.ports.ports[uid].port}{path}"


@asynccontextmanager
async def running_gateway(folder: Path, inputs: DesiredState) -> AsyncIterator[Gateway]:
    """An Envoy and its agent that serve the inputs; both end when left."""
    gateway = Gateway(folder)
    await gateway.agent.admin.close()
    await gateway.start_agent()
    try:
        await gateway.agent.update(inputs)
        await gateway.start_envoy()
        await gateway.confirmed()
        yield gateway
    finally:
        await gateway.stop_agent()
        if gateway.envoy is not None:
            await gateway.kill_envoy()


def inputs_of(
    uid: str, serial: int, weights: Mapping[str, int], upstreams: Mapping[str, Upstream], port: int
) -> DesiredState:
    """The inputs of one program whose revisions are served by upstreams of the same name."""
    routes = Routes(
        f"program-{uid}", uid, serial, 30, tuple(Backend(revision, weight) for revision, weight in weights.items())
    )
    slices = {name: {f"{name}-slice": (upstream.endpoint,)} for name, upstream in upstreams.items()}
    return DesiredState(PortTable({uid: Port(f"program-{uid}", port)}), {uid: routes}, slices)


def weighted(inputs: DesiredState, uid: str, weights: Mapping[str, int]) -> DesiredState:
    """The same inputs with other weights and the next serial."""
    routes = inputs.routes[uid]
    backends = tuple(Backend(revision, weight) for revision, weight in weights.items())
    return inputs.with_routes(replace(routes, serial=routes.serial + 1, backends=backends))


async def ask(session: aiohttp.ClientSession, url: str) -> tuple[int, str]:
    """One prediction: the status and the revision that answered."""
    async with session.post(url, json={}) as response:
        await response.read()
        return response.status, response.headers.get("x-dspy-revision", "")


async def ask_many(url: str, requests: int, clients: int = 16) -> Counter[tuple[int, str]]:
    """Many predictions over a bounded number of connections."""
    left = iter(range(requests))
    answers: Counter[tuple[int, str]] = Counter()

    async def client(session: aiohttp.ClientSession) -> None:
        for _ in left:
            answers[await ask(session, url)] += 1

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=clients)) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    return answers
