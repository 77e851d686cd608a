"""What the runtime's capabilities cost and do: all of them on beside none, hits of the cache, hedging, a provider that
dies."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

import aiohttp

from benchmarks.load import cpu_seconds, load
from benchmarks.runtime import AT_ONCE, FAST_LM_SECONDS, FIELDS, Rows, change, provider, save
from benchmarks.show import CONSOLE, percentile, show
from tests.integration.gateway import until
from tests.integration.redis import running_redis
from tests.integration.runtime import Runtime, running_runtime

ROUNDS, ROUND = 7, 600
LM_SECONDS = 0.05
SLOW_EVERY, TIMES = 50, 10
"""The provider takes so many times as long with every so many-th call: its slowest 2 %."""

PRICE = {"input": 1, "output": 2}
BREAKER = {"minimum_calls": 20, "window_seconds": 10, "open_seconds": 2}
GUARDRAILS = [
    {"name": "cards", "target": "Input", "action": "Flag", "pattern": r"\b[0-9]{13,16}\b"},
    {"name": "length", "target": "Output", "match": {"properties": {"answer": {"maxLength": 10_000}}}},
]


def main() -> None:
    """CPU per request with everything on and off, hits by tier, the tail with and without hedges, a fall-over."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_main(Path(folder)))


async def _main(folder: Path) -> None:
    rows: Rows = []
    for part in (_everything, _hits, _hedges, _fall_over):
        CONSOLE.print(f"  {part.__name__.strip('_').replace('_', ' ')} ...")
        work = folder / part.__name__
        work.mkdir()
        rows += await part(work)
    show("Features of the runtime", ["", "here", "beside it", "ratio", "aim"], rows)


async def _everything(folder: Path) -> Rows:
    """In turns, so that a machine whose speed changes is the same for both."""
    async with provider(FAST_LM_SECONDS) as base, running_redis(folder) as redis:
        model = save(folder / "model", base)
        other = {"model": "openai/other", "api_base": base, "price": PRICE}
        everything = {
            "lm": {"fallbacks": [other], "hedge": {}, "circuit_breaker": {}, "price": PRICE},
            "cache": {},
            "redis": {"url": redis.url},
            "budget": {"usd_per_day": 1e6},
            "guardrails": GUARDRAILS,
            "priorities": "Allow",
        }
        async with (
            running_runtime(model, base, _made(folder / "off")) as off,
            running_runtime(model, base, _made(folder / "on"), **everything) as on,
        ):
            spent: dict[str, list[float]] = {"off": [], "on": []}
            for turn in range(ROUNDS + 1):
                for name, runtime in (("off", off), ("on", on)):
                    each = await _cpu_ms(runtime, turn)
                    if turn:  # the first is to warm up
                        spent[name].append(each)
    plain, full = median(spent["off"]), median(spent["on"])
    return [
        ["CPU ms a request, 5 ms provider, all on", f"{full:.2f}", f"off {plain:.2f}", f"{full / plain:.2f}x", "<= 1.6"]
    ]


async def _cpu_ms(runtime: Runtime, turn: int) -> float:
    before = cpu_seconds(runtime.process.pid)

    def unheard(number: int) -> dict[str, str]:
        return {"question": f"Question {turn}, {number}?"}

    result = await load(f"{runtime.url}/predict", unheard, ROUND, AT_ONCE)
    assert not result.failures
    return (cpu_seconds(runtime.process.pid) - before) * 1000 / ROUND


async def _hits(folder: Path) -> Rows:
    """One client, so that what is measured is a hit's way through the pod and back."""
    async with provider(FAST_LM_SECONDS) as base, running_redis(folder) as redis:
        model = save(folder / "model", base)
        # A memory that holds one answer, and two questions in turn: every one comes from Redis.
        shared = {"cache": {"max_entries": 1}, "redis": {"url": redis.url}}
        async with (
            running_runtime(model, base, _made(folder / "memory"), cache={}) as memory,
            running_runtime(model, base, _made(folder / "redis"), **shared) as both,
        ):
            found = []
            for runtime in (memory, both):
                await load(f"{runtime.url}/predict", _in_turn, 50, 1)
                found.append(await load(f"{runtime.url}/predict", _in_turn, 1_000, 1))
            calls = (await change(base))["calls"]
    p50, p50_of_redis = (percentile(each.latencies, 50) * 1000 for each in found)
    return [
        ["p50 ms of a hit in memory, one client", f"{p50:.2f}", "", "", "< 1"],
        ["  in Redis", f"{p50_of_redis:.2f}", f"calls of the provider: {calls}", "", "< 2"],
    ]


def _in_turn(number: int) -> dict[str, str]:
    return {"question": f"Question {number % 2}?"}


async def _hedges(folder: Path) -> Rows:
    async with provider(LM_SECONDS) as base:
        await change(base, slow_every=SLOW_EVERY, slow_seconds=TIMES * LM_SECONDS)
        model = save(folder / "model", base)
        found = []
        for name, lm in (("without", {}), ("with", {"hedge": {"percentile": 95, "max_extra_percent": 5}})):
            async with running_runtime(model, base, _made(folder / name), lm=lm) as runtime:
                await load(f"{runtime.url}/predict", FIELDS, 500, AT_ONCE)
                before = (await change(base))["calls"]
                result = await load(f"{runtime.url}/predict", FIELDS, 3_000, AT_ONCE)
                found.append((result.latencies, (await change(base))["calls"] - before - 3_000))
    (plain, _), (hedged, extra) = found
    middle, tail, tail_without = percentile(hedged, 50), percentile(hedged, 99), percentile(plain, 99)
    return [
        [
            "p99 ms, slowest 2 % take 10 times as long",
            f"{1000 * tail:.0f}",
            f"without hedges {1000 * tail_without:.0f}",
            f"{tail / middle:.1f}x the median",
            "<= 2x",
        ],
        ["  calls beyond those that were asked for", f"{extra / 3_000:.1%}", "", "", "<= 5%"],
    ]


async def _fall_over(folder: Path) -> Rows:
    """The first provider answers with errors for a while, under load."""
    async with provider(LM_SECONDS) as base, provider(LM_SECONDS) as other:
        model = save(folder / "model", base)
        lm = {"fallbacks": [{"model": "openai/other", "api_base": other}], "circuit_breaker": BREAKER, "max_retries": 0}
        async with running_runtime(model, base, folder, lm=lm) as runtime, _steady(runtime) as seen:
            await asyncio.sleep(3)
            await change(base, error_share=1.0)
            failed_at = time.perf_counter()
            await until(lambda: _breaker_is(runtime, 2), "the breaker is open", 30)
            opened = time.perf_counter() - failed_at
            await asyncio.sleep(3)
            await change(base, error_share=0.0)
            mended_at = time.perf_counter()
            await until(lambda: _breaker_is(runtime, 0), "the breaker is closed", 30)
            closed = time.perf_counter() - mended_at
            await asyncio.sleep(1)
    lost = sum(status != 200 for status in seen)
    return [
        ["requests lost when the first provider dies", f"{lost} of {len(seen):,}", "", "", "0"],
        ["  seconds until its breaker opens; closes", f"{opened:.1f}; {closed:.1f}", "asked anew every 2", "", ""],
    ]


@asynccontextmanager
async def _steady(runtime: Runtime) -> AsyncIterator[list[int]]:
    """So many clients that ask all the time, and the statuses of their answers."""
    seen: list[int] = []

    async def client(session: aiohttp.ClientSession) -> None:
        while True:
            async with session.post(f"{runtime.url}/predict", json=FIELDS) as response:
                await response.read()
                seen.append(response.status)

    async with aiohttp.ClientSession() as session:
        clients = [asyncio.create_task(client(session)) for _ in range(AT_ONCE)]
        try:
            yield seen
        finally:
            for each in clients:
                each.cancel()
            await asyncio.gather(*clients, return_exceptions=True)


async def _breaker_is(runtime: Runtime, state: int) -> bool:
    lines = (await runtime.get("/metrics")).splitlines()
    return f'dspy_runtime_lm_breaker{{lm="openai/standin",revision=""}} {state}.0' in lines


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
