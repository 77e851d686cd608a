"""The runtime beside `mlflow models serve`, with the same program, the same stand-in provider and the same load."""

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

from benchmarks.load import cpu_seconds, load
from benchmarks.show import percentile, show
from tests.integration.gateway import free_port, until
from tests.integration.runtime import KEY, running_runtime

FAST_LM_SECONDS, SLOW_LM_SECONDS = 0.005, 0.5
FIELDS = {"question": "Why is the sky blue?"}


def main() -> None:
    """CPU per request with a fast provider, and throughput with a slow one."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_main(Path(folder)))


async def _main(folder: Path) -> None:
    async with provider(FAST_LM_SECONDS) as fast, provider(SLOW_LM_SECONDS) as slow:
        model = folder / "model"
        save(model, fast)
        slow_model = folder / "slow"
        save(slow_model, slow)
        (folder / "fast").mkdir()
        async with running_runtime(model, fast, folder / "fast") as ours, _mlflow(model, folder) as peer:
            await load(f"{ours.url}/predict", FIELDS, 300, 16)
            await load(peer.url, {"inputs": FIELDS}, 100, 4)
            cpu = await _cpu(ours.process.pid, f"{ours.url}/predict", FIELDS, 3_000)
            peer_cpu = await _cpu(peer.pid, peer.url, {"inputs": FIELDS}, 600)
        (folder / "slow-work").mkdir()
        async with (
            running_runtime(slow_model, slow, folder / "slow-work", concurrency=400) as ours,
            _mlflow(slow_model, folder) as peer,
        ):
            rate = await load(f"{ours.url}/predict", FIELDS, 1_500, 300)
            peer_rate = await load(peer.url, {"inputs": FIELDS}, 120, 60)
    rows = [
        [
            "CPU ms a request, 5 ms provider",
            f"{cpu[0]:.2f}",
            f"{peer_cpu[0]:.2f}",
            f"{peer_cpu[0] / cpu[0]:.1f}x less",
            "<= 1.2 ms, >= 3x",
        ],
        ["p50 / p99 ms at 16 in flight", cpu[1], peer_cpu[1], "", ""],
        [
            "requests/s, 300 in flight, 500 ms provider",
            f"{rate.rate:.0f}",
            f"{peer_rate.rate:.0f}",
            f"{rate.rate / peer_rate.rate:.1f}x",
            ">= 10x",
        ],
        ["  its limit: 300 in flight / 0.5 s", "600", "", f"{rate.rate / 6:.0f}% reached", ""],
        ["failures", str(rate.failures), str(peer_rate.failures), "", "0"],
    ]
    show("Runtime", ["", "this runtime", "mlflow models serve", "ratio", "aim"], rows)


async def _cpu(pid: int, url: str, body: Any, requests: int) -> tuple[float, str]:
    before = cpu_seconds(pid)
    result = await load(url, body, requests, 16)
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
        async with aiohttp.ClientSession() as session:
            await session.put(f"{base}/settings", json={"latency_seconds": latency_seconds})
        yield f"{base}/v1"
    finally:
        process.terminate()
        await process.wait()


def save(folder: Path, base: str) -> None:
    """Saves a program as MLflow does, with the stand-in provider as its own language model, for the peer's sake."""
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import dspy
        import mlflow.dspy

        with dspy.context(lm=dspy.LM("openai/standin", api_base=base, api_key=KEY, cache=False)):
            mlflow.dspy.save_model(dspy.ChainOfThought("question -> answer"), str(folder), pip_requirements=["dspy"])


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
