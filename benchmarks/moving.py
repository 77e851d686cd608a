"""Releases that move among many programs behind one gateway: until Envoy obeys new routes, CPU, memory."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Collection
from dataclasses import replace
from statistics import median

from benchmarks.load import cpu_seconds, resident_mib
from benchmarks.programs import desired_of, serving
from benchmarks.show import percentile, show
from dspy_contract.garbage import collect_rarely
from dspy_contract.routes import ReleaseRef
from dspy_contract.state import Interest, Poll
from dspy_gateway.resources import obeyed
from dspy_gateway.xds import ROUTES
from tests.integration.gateway import Gateway, Upstream, weighted

PROGRAMS = 1_000
MOVING = (1, 100)
CHANGES = 100
ROUNDS = 5
QUIET_SECONDS = 30.0
AIMS = {1: "<= 25 ms", 100: "<= 300 ms"}


def main() -> None:
    """Prints a row for each number of releases in motion."""
    collect_rarely()  # as the agent does, which is in this process
    rows = [asyncio.run(_measured(moving)) for moving in MOVING]
    columns = ["in motion", "one changes: median", "p95", "aim", "all change at once: p95", "agent", "Envoy", "memory"]
    show(f"Releases among {PROGRAMS:,} programs behind one gateway: until Envoy obeys, CPU of a second", columns, rows)


async def _measured(moving: int) -> list[str]:
    async with Upstream("old").running() as old, Upstream("new").running() as new:
        desired = desired_of(PROGRAMS, {"old": old, "new": new})
        uids = list(desired.routes)[:moving]
        for uid in uids:
            desired = desired.with_routes(replace(desired.routes[uid], release=ReleaseRef(1, "old", ("new",), 0)))
        async with serving(desired) as (gateway, _):
            poll = asyncio.create_task(_poll(gateway, uids))
            await asyncio.sleep(2.0)
            agent, envoy = await _cpu(gateway)
            single = [await _obeyed(gateway, [uids[number % moving]], number) for number in range(CHANGES)]
            every = [await _obeyed(gateway, uids, CHANGES + number) for number in range(ROUNDS)]
            poll.cancel()
            assert gateway.envoy is not None
            memory = f"{resident_mib(gateway.envoy.pid)} MiB"
    one, all_at_once = ([1000 * each for times in found for each in times] for found in (single, every))
    return [
        str(moving),
        f"{median(one):.0f} ms",
        f"{percentile(one, 95):.0f} ms",
        AIMS[moving],
        f"{percentile(all_at_once, 95):.0f} ms",
        f"{agent:.0f} ms",
        f"{envoy:.0f} ms",
        memory,
    ]


async def _poll(gateway: Gateway, uids: Collection[str]) -> None:
    """Asks as the operator does, so that tables rotate and counters are looked at."""
    token = ""
    while True:
        state = await gateway.agent.answer(Poll({uid: Interest(1) for uid in uids}, token, 1.0))
        token = state.token
        await asyncio.sleep(0.25)


async def _cpu(gateway: Gateway) -> tuple[float, float]:
    """Milliseconds of CPU a second while only tables change: the agent's, which is this process, and Envoy's."""
    assert gateway.envoy is not None
    pids = (os.getpid(), gateway.envoy.pid)
    before = [cpu_seconds(pid) for pid in pids]
    await asyncio.sleep(QUIET_SECONDS)
    after = [cpu_seconds(pid) for pid in pids]
    agent, envoy = (1000 * (later - earlier) / QUIET_SECONDS for later, earlier in zip(after, before, strict=True))
    return agent, envoy


async def _obeyed(gateway: Gateway, uids: Collection[str], number: int) -> list[float]:
    """Gives programs other weights in one update; returns after how many seconds Envoy obeys, for each."""
    weight = 1_000 + number
    desired = gateway.agent.desired
    for uid in uids:
        desired = weighted(desired, uid, {"old": 10_000 - weight, "new": weight})
    began = time.perf_counter()
    await gateway.agent.update(desired)
    waiting, seconds = set(uids), []
    while waiting:
        done = {
            uid
            for uid in waiting
            if obeyed(gateway.agent.discovery.confirmed_version((ROUTES, uid)))[0] == desired.routes[uid].serial
        }
        seconds += [time.perf_counter() - began] * len(done)
        waiting -= done
        await asyncio.sleep(0.002)
    return seconds
