"""The runtime beside `mlflow models serve`, and beside the same program called without any server: the same program,
stand-in provider and load."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.load import cpu_seconds, load, resident_mib
from benchmarks.show import CONSOLE, percentile, show
from tests.integration.gateway import free_port, until
from tests.integration.runtime import KEY, running_runtime

FAST_LM_SECONDS, SLOW_LM_SECONDS, SLOWER_LM_SECONDS = 0.005, 0.5, 2.0
AT_ONCE = 16
IN_FLIGHT, MORE_IN_FLIGHT = 1_000, 1_500
FIELDS = {"question": "Why is the sky blue?"}
DEMO_BYTES = 2 << 20
MANY_REQUESTS = 100_000
Rows = list[list[str]]


def main() -> None:
    """CPU per request with a fast provider, throughput with slow ones, demos of 2 MB, memory over many requests."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_main(Path(folder)))


async def _main(folder: Path) -> None:
    rows = []
    for part in (_fast, _slow, _in_flight, _demos, _memory):
        CONSOLE.print(f"  {part.__name__.strip('_').replace('_', ' ')} ...")
        work = folder / part.__name__
        work.mkdir()
        rows += await part(work)
    show("Runtime", ["", "this runtime", "beside it", "ratio", "aim"], rows)


async def _fast(folder: Path) -> Rows:
    async with provider(FAST_LM_SECONDS) as base:
        model = save(folder / "model", base)
        async with running_runtime(model, base, folder) as ours, _mlflow(model, folder) as peer:
            await load(f"{ours.url}/predict", FIELDS, 300, AT_ONCE)
            await load(peer.url, {"inputs": FIELDS}, 100, 4)
            cpu, latency = await _cpu(ours.process.pid, f"{ours.url}/predict", FIELDS, 3_000)
            peer_cpu, peer_latency = await _cpu(peer.pid, peer.url, {"inputs": FIELDS}, 600)
        alone = await _in_process(model, base)
    mlflow, in_process = f"mlflow models serve {peer_cpu:.2f}", f"no server, dspy.LM {alone:.2f}"
    return [
        ["CPU ms a request, 5 ms provider", f"{cpu:.2f}", mlflow, f"{peer_cpu / cpu:.1f}x less", "<= 0.9, >= 4x"],
        ["  the same calls in one process", "", in_process, f"{alone / cpu:.1f}x less", ""],
        ["  p50 / p99 ms at 16 in flight", latency, peer_latency, "", ""],
    ]


async def _slow(folder: Path) -> Rows:
    async with provider(SLOW_LM_SECONDS) as base:
        model = save(folder / "model", base)
        async with running_runtime(model, base, folder, concurrency=400) as ours, _mlflow(model, folder) as peer:
            rate = await load(f"{ours.url}/predict", FIELDS, 1_500, 300)
            peer_rate = await load(peer.url, {"inputs": FIELDS}, 120, 60)
    ratio = f"{rate.rate / peer_rate.rate:.1f}x"
    return [
        [
            "requests/s, 300 in flight, 500 ms",
            f"{rate.rate:.0f}",
            f"mlflow models serve {peer_rate.rate:.0f}",
            ratio,
            "",
        ],
        ["  failures", str(rate.failures), str(peer_rate.failures), "", "0"],
    ]


async def _in_flight(folder: Path) -> Rows:
    rows = []
    async with provider(SLOWER_LM_SECONDS) as base:
        model = save(folder / "model", base)
        async with running_runtime(model, base, folder, concurrency=2_000) as ours:
            for clients in (IN_FLIGHT, MORE_IN_FLIGHT):
                before = cpu_seconds(ours.process.pid)
                url, requests = f"{ours.url}/predict", clients * 10
                result = await load(url, FIELDS, requests, clients, spread_seconds=SLOWER_LM_SECONDS)
                cores = (cpu_seconds(ours.process.pid) - before) * result.rate / requests
                limit = clients / SLOWER_LM_SECONDS
                label, beside = f"requests/s, {clients:,} in flight, 2 s", f"the provider's own limit {limit:.0f}"
                aim = ">= 95%" if clients == IN_FLIGHT else ""
                rows.append([label, f"{result.rate:.0f}", beside, f"{result.rate / limit:.0%}", aim])
                rows.append(["  failures; cores", f"{result.failures}; {cores:.2f}", "", "", "0"])
            connections = (await change(base))["connections"]
            rows.append(["  connections to the provider", str(connections), "", "", f"<= {MORE_IN_FLIGHT:,}"])
    return rows


async def _demos(folder: Path) -> Rows:
    async with provider(FAST_LM_SECONDS) as base:
        model = save(folder / "model", base, demo_bytes=DEMO_BYTES)
        async with running_runtime(model, base, folder) as ours:
            await load(f"{ours.url}/predict", FIELDS, 20, 4)
            cpu, latency = await _cpu(ours.process.pid, f"{ours.url}/predict", FIELDS, 200, at_once=4)
        alone = await _in_process(model, base, requests=100, at_once=4)
    return [
        [
            "CPU ms a request with 2 MB of demos",
            f"{cpu:.1f}",
            f"no server, dspy.LM {alone:.1f}",
            f"{alone / cpu:.1f}x less",
            "",
        ],
        ["  p50 / p99 ms at 4 in flight", latency, "", "", ""],
    ]


async def _memory(folder: Path) -> Rows:
    async with provider(0.0) as base:
        model = save(folder / "model", base)
        async with running_runtime(model, base, folder) as ours:
            await load(f"{ours.url}/predict", FIELDS, MANY_REQUESTS // 10, AT_ONCE)
            early = resident_mib(ours.process.pid)
            result = await load(f"{ours.url}/predict", FIELDS, MANY_REQUESTS, AT_ONCE)
            late = resident_mib(ours.process.pid)
    return [
        [f"MiB after {MANY_REQUESTS:,} more requests", str(late), f"before them {early}", f"{late - early:+d}", "flat"],
        ["  requests/s; failures", f"{result.rate:.0f}; {result.failures}", "", "", "0"],
    ]


async def _in_process(model: Path, base: str, requests: int = 3_000, at_once: int = AT_ONCE) -> float:
    command = (sys.executable, "-m", "benchmarks.in_process", str(model), base, str(requests), str(at_once))
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    printed, _ = await process.communicate()
    return float(printed.decode().split()[-1])


async def _cpu(pid: int, url: str, body: Any, requests: int, at_once: int = AT_ONCE) -> tuple[float, str]:
    before = cpu_seconds(pid)
    result = await load(url, body, requests, at_once)
    spent = (cpu_seconds(pid) - before) * 1000 / requests
    return spent, f"{percentile(result.latencies, 50) * 1000:.0f} / {percentile(result.latencies, 99) * 1000:.0f}"


@asynccontextmanager
async def provider(latency_seconds: float) -> AsyncIterator[str]:
    """The stand-in provider in a process of its own, so that its CPU is not the runtime's."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "dev.standin",
        "serve",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        stdout=asyncio.subprocess.DEVNULL,
    )
    base = f"http://127.0.0.1:{port}"
    try:
        await until(lambda: _answers(f"{base}/healthz"), "the provider answers")
        await change(f"{base}/v1", latency_seconds=latency_seconds)
        yield f"{base}/v1"
    finally:
        process.terminate()
        await process.wait()


async def change(base: str, **changed: Any) -> dict[str, Any]:
    """Changes the stand-in provider; returns its settings and what it has seen."""
    url = f"{base.removesuffix('/v1')}/settings"
    async with aiohttp.ClientSession() as session, session.put(url, json=changed) as response:
        return dict(await response.json())


def save(folder: Path, base: str, demo_bytes: int = 0) -> Path:
    """Saves a program as MLflow does, with the stand-in provider as its own language model, for the peer's sake."""
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import dspy
        import mlflow.dspy

        program = dspy.ChainOfThought("question -> answer")
        words = "an example of some length " * 100
        program.predict.demos = [
            dspy.Example(question=f"{number}: {words}", reasoning=words, answer=words).with_inputs("question")
            for number in range(demo_bytes // (3 * len(words)))
        ]
        with dspy.context(lm=dspy.LM("openai/standin", api_base=base, api_key=KEY, cache=False)):
            mlflow.dspy.save_model(program, str(folder), pip_requirements=["dspy"])
    return folder


class _Peer:
    def __init__(self, pid: int, url: str) -> None:
        self.pid = pid
        self.url = url


@asynccontextmanager
async def _mlflow(model: Path, folder: Path) -> AsyncIterator[_Peer]:
    port = free_port()
    log = (folder / "mlflow.log").open("ab")
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = ["models", "serve", "-m", str(model), "--env-manager", "local", "-h", "127.0.0.1", "-p", str(port)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mlflow", *command, stdout=log, stderr=log, env=environment, start_new_session=True
    )
    log.close()
    try:
        await until(
            lambda: _answers(f"http://127.0.0.1:{port}/ping"),
            f"mlflow models serve answers; see {folder}/mlflow.log",
            60,
        )
        yield _Peer(process.pid, f"http://127.0.0.1:{port}/invocations")
    finally:
        os.killpg(process.pid, 15)
        await process.wait()


async def _answers(url: str) -> bool:
    try:
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False
