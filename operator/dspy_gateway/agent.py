"""The agent: learns routes and endpoints, publishes them to its Envoy in an order that loses no request, and counts.

Everything runs on one event loop. `publish` is level-triggered: it compares what should be with what Envoy has
confirmed
and takes the next allowed step; every change of inputs and every word of Envoy runs it again.
"""

from __future__ import annotations

import asyncio
import time
import zlib

import aiohttp
import grpc.aio
import yaml

from dspy_contract.logs import Logger
from dspy_contract.state import GatewayState, ProgramState
from dspy_gateway import envoy, published, snapshot, xds
from dspy_gateway.admin import Admin
from dspy_gateway.counts import STATS_QUERY, Counts, bad_answers, read_statistics
from dspy_gateway.published import Inputs, Program
from dspy_gateway.settings import Settings

READ_SECONDS = 1.0
"""How often Envoy's counters are read while nobody waits for them."""

WATCHED_READ_SECONDS = 0.1
"""How often they are read while a poll waits for the next failure."""

log = Logger(__name__)


class Agent:
    """One gateway pod's agent: its inputs, its xDS server and its counts."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._inputs_file = settings.folder / "inputs.json"
        self._counts_file = settings.folder / "counts.json"
        known = snapshot.load_inputs(self._inputs_file)
        self.inputs = known or Inputs()
        self.informed = known is not None
        """True once the agent knows what to serve, from its snapshot or from the API server."""
        self.since, self.counts = snapshot.load_counts(self._counts_file) or (time.time(), Counts())
        self.discovery = xds.DiscoveryServer(self._publish_soon, _log_refusal)
        self.admin = Admin(settings.folder / "admin.sock")
        self._waiting = 0
        self._changed = asyncio.Condition()
        self._wake_reader = asyncio.Event()
        self._server: grpc.aio.Server | None = None
        self._opening = False
        self._due = False
        self._telling: asyncio.Future[None] | None = None
        self._wanted: list[Program] = []
        self._wanted_for: Inputs | None = None

    def prepare(self) -> None:
        """Writes Envoy's bootstrap, before Envoy starts."""
        folder = self.settings.folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "bootstrap.yaml").write_text(yaml.safe_dump(envoy.bootstrap(str(folder), self.settings.pod)))

    async def take(self, inputs: Inputs) -> None:
        """Takes what was learnt from the API server: publishes it, keeps it, and opens the socket the first time."""
        if inputs == self.inputs and self.informed:
            return
        self.inputs = inputs
        self.informed = True
        self.publish()
        snapshot.save_inputs(self._inputs_file, inputs)
        await self.open()

    async def open(self) -> None:
        """Opens the xDS socket, once, when there is something to tell: Envoy would drop what it is not told of."""
        if self.informed and not self._opening:
            self._opening = True
            self.publish()
            self._server = await xds.serve(str(self.settings.folder / "xds.sock"), self.discovery)

    @property
    def open_to_envoy(self) -> bool:
        """True once Envoy may start."""
        return self._server is not None

    async def close(self) -> None:
        """Keeps the counts and closes the sockets."""
        snapshot.save_counts(self._counts_file, self.since, self.counts)
        await self.admin.close()
        if self._server is not None:
            await self._server.stop(None)

    def _publish_soon(self) -> None:
        """Publishes once after all that Envoy says in one go."""
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self.publish)
            self._telling = asyncio.ensure_future(self._tell_waiting())

    def publish(self) -> None:
        """Takes the next allowed step of every program towards what should be."""
        self._due = False
        if self._wanted_for is not self.inputs:
            known = {program.uid: program for program in self._wanted}
            self._wanted = published.programs(
                self.inputs, self.settings.pod, self.settings.address, self._wanted_for, known
            )
            self._wanted_for = self.inputs
        wanted = self._wanted
        for program in wanted:
            try:
                self._publish_program(program)
            except ValueError as error:  # one program's fault must not stop the others
                log.error("A program could not be published", program=program.uid, error=repr(error))
        for uid in self.discovery.names(xds.LISTENER) - {program.uid for program in wanted}:
            self.discovery.withdraw(xds.LISTENER, uid)
            self.discovery.withdraw(xds.ROUTES, uid)
        settled = {program.uid for program in wanted if self._routes_settled(program)}
        for name in published.removable(self.discovery.names(xds.CLUSTER), wanted, settled):
            self.discovery.withdraw(xds.CLUSTER, name)
            self.discovery.withdraw(xds.ENDPOINTS, name)

    def _publish_program(self, program: Program) -> None:
        """Endpoints and clusters first; routes only once Envoy holds every cluster that they name.

        A cluster that loses its last endpoint comes after the routes, which take its traffic away.
        """
        for name, resource in program.endpoints.items():
            if name not in program.emptied or not self.discovery.has((xds.ENDPOINTS, name)):
                self.discovery.publish(xds.ENDPOINTS, name, resource)
        for name, resource in program.clusters.items():
            self.discovery.publish(xds.CLUSTER, name, resource)
        first = not self.discovery.has((xds.ROUTES, program.uid))
        if first or all(self.discovery.holds((xds.CLUSTER, name)) for name in program.clusters):
            self.discovery.publish(xds.ROUTES, program.uid, program.routes)
            self.discovery.publish(xds.LISTENER, program.uid, program.listener)
        for name in program.emptied:
            self.discovery.publish(xds.ENDPOINTS, name, program.endpoints[name])

    def _routes_settled(self, program: Program) -> bool:
        """True when Envoy obeys the newest routes, or has never asked for any because it refused the listener."""
        key = (xds.ROUTES, program.uid)
        return self.discovery.confirmed_version(key) == program.routes.version or not self.discovery.asked_for(key)

    def state(self) -> GatewayState:
        """What the operator is told."""
        counted = self.counts.by_program()
        programs = {}
        for uid in self.inputs.ports.ports:
            version = self.discovery.confirmed_version((xds.ROUTES, uid))
            routes = self.inputs.routes.get(uid)
            programs[uid] = ProgramState(
                serial=published.serial_of(version) if version else 0,
                listening=version is not None and self.discovery.holds((xds.LISTENER, uid)),
                effective=self.inputs.effective(routes) if routes else {},
                revisions=counted.get(uid, {}),
            )
        failures = bad_answers(state.revisions for state in programs.values())
        confirmed = sorted((uid, state.serial, state.listening) for uid, state in programs.items())
        token = f"{failures}-{zlib.crc32(repr(confirmed).encode()):08x}"
        return GatewayState(self.settings.pod, self.since, token, programs)

    async def wait_for_change(self, seen: str, wait_seconds: float) -> None:
        """Returns when the state's token is another than `seen`, or after the wait."""
        self._waiting += 1
        self._wake_reader.set()
        try:
            async with asyncio.timeout(wait_seconds), self._changed:
                await self._changed.wait_for(lambda: self.state().token != seen)
        except TimeoutError:
            pass
        finally:
            self._waiting -= 1

    async def read_counts(self) -> None:
        """Reads Envoy's counters for ever: once a second, and more often while a poll waits for a failure."""
        while True:
            await self._read_once()
            self._wake_reader.clear()
            try:
                async with asyncio.timeout(WATCHED_READ_SECONDS if self._waiting else READ_SECONDS):
                    await self._wake_reader.wait()
            except TimeoutError:
                continue

    async def _read_once(self) -> None:
        try:
            reading = read_statistics(await self.admin.json(STATS_QUERY))
        except (aiohttp.ClientError, TimeoutError, OSError):
            return
        if self.counts.take(reading, set(self.inputs.ports.ports)):
            snapshot.save_counts(self._counts_file, self.since, self.counts)
        await self._tell_waiting()

    async def _tell_waiting(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def _log_refusal(key: xds.Key, words: str) -> None:
    log.error("Envoy refused a resource", kind=key[0].rpartition(".")[2], name=key[1], error=words)
