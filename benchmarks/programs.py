"""Many programs behind one gateway: seconds until all are served, CPU of one look at the counters, memory."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.load import cpu_seconds, resident_mib
from benchmarks.show import show
from dspy_contract.routes import Port, PortTable
from dspy_contract.state import Interest
from dspy_gateway.resources import DesiredState
from tests.integration.gateway import Gateway, Upstream, free_port, inputs_of

PROGRAMS = (300, 1_000)
LOOKS = 20
LOOK_SECONDS = 0.05
FIRST_PORT = 20_000
AIMS = {300: "<= 3 s", 1_000: "<= 12 s"}


def main() -> None:
    """Prints a row for each number of programs, and the memory of a gateway with one beside it."""
    rows = [asyncio.run(_measured(count)) for count in (1, *PROGRAMS)]
    show(
        "Programs behind one gateway",
        ["programs", "served after", "aim", "CPU of a look", "aim", "Envoy's memory"],
        rows,
    )


async def _measured(count: int) -> list[str]:
    async with (
        Upstream("old").running() as old,
        Upstream("new").running() as new,
        serving(desired_of(count, {"old": old, "new": new})) as (gateway, served),
    ):
        assert gateway.envoy is not None
        look, memory = await _looks(gateway), resident_mib(gateway.envoy.pid)
    aim = AIMS.get(count, "")
    return [str(count), f"{served:.1f} s", aim, f"{look:.1f} ms", "<= 8 ms" if count == 300 else "", f"{memory} MiB"]


def desired_of(count: int, upstreams: dict[str, Upstream]) -> DesiredState:
    """The inputs of so many programs, each with two revisions."""
    uids = [f"0b5c6d7e-0000-4000-8000-{number:012d}" for number in range(count)]
    one = inputs_of(uids[0], 1, {"old": 9_000, "new": 1_000}, upstreams, free_port())
    ports = PortTable({uid: Port(f"p{number}", FIRST_PORT + number) for number, uid in enumerate(uids)})
    routes = {uid: replace(one.routes[uids[0]], uid=uid, program=f"p{number}") for number, uid in enumerate(uids)}
    return DesiredState(ports, routes, one.slices)


@asynccontextmanager
async def serving(desired: DesiredState) -> AsyncIterator[tuple[Gateway, float]]:
    """A gateway that serves all of it, and after how many seconds it did; ends when left."""
    with tempfile.TemporaryDirectory() as folder:
        gateway = Gateway(Path(folder))
        await gateway.agent.admin.close()
        await gateway.start_agent()
        try:
            started = time.monotonic()
            await gateway.agent.update(desired)
            await gateway.start_envoy()
            await _wait_until_served(gateway, list(desired.routes))
            yield gateway, time.monotonic() - started
        finally:
            await gateway.stop_agent()
            await gateway.kill_envoy()


async def _wait_until_served(gateway: Gateway, uids: list[str]) -> None:
    """Looks at one program after the other, so that looking costs nothing."""
    for uid in uids:
        while not gateway.agent.state({uid: Interest()}).programs[uid].listening:  # noqa: ASYNC110 it tells pollers only
            await asyncio.sleep(LOOK_SECONDS)


async def _looks(gateway: Gateway) -> float:
    """Milliseconds of Envoy's CPU for one look at all counters."""
    assert gateway.envoy is not None
    before = cpu_seconds(gateway.envoy.pid)
    for _ in range(LOOKS):
        await gateway.agent.look()
    return 1000 * (cpu_seconds(gateway.envoy.pid) - before) / LOOKS
