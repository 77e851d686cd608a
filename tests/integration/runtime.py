"""The runtime as its pod runs it: a process of its own, programs that MLflow saved, and the stand-in provider."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from dev.standin.server import Provider
from dspy_runtime.settings import SETTINGS_FILE
from tests.integration.gateway import free_port, until

KEY = "sk-test-0123456789abcdef"


@dataclass
class RunningProvider:
    """The stand-in provider and its address."""

    provider: Provider
    base: str


@asynccontextmanager
async def running_provider() -> AsyncIterator[RunningProvider]:
    """The stand-in provider on loopback."""
    provider = Provider()
    provider.settings.latency_seconds = 0.0
    runner = web.AppRunner(provider.application(), access_log=None, handler_cancellation=True)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield RunningProvider(provider, f"http://127.0.0.1:{port}/v1")
    finally:
        await runner.cleanup()


@dataclass
class Runtime:
    """A runtime's process and its two addresses."""

    process: asyncio.subprocess.Process
    url: str
    probe_url: str
    session: aiohttp.ClientSession
    log: Path

    async def predict(self, **fields: Any) -> tuple[int, dict[str, Any], Mapping[str, str]]:
        """One prediction: status, body, headers."""
        async with self.session.post(f"{self.url}/predict", json=fields) as response:
            return response.status, await response.json(), response.headers

    async def get(self, path: str) -> str:
        """A page of the probe port."""
        async with self.session.get(self.probe_url + path) as response:
            return await response.text()

    async def ready(self) -> bool:
        """True when the readiness probe passes."""
        try:
            async with self.session.get(f"{self.probe_url}/readyz") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    def proc(self, file: str) -> str:
        """What the kernel says of the process."""
        return Path(f"/proc/{self.process.pid}/{file}").read_text()

    def memory_bytes(self) -> int:
        """Resident memory of the process."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@asynccontextmanager
async def running_runtime(model: Path | str, base: str, folder: Path, **settings: Any) -> AsyncIterator[Runtime]:
    """A runtime that is ready. `settings` are those of its settings file, `lm` parts of those of the language model."""
    process, port, probe_port, log = await start(model, base, folder, **settings)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        runtime = Runtime(process, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{probe_port}", session, log)
        try:
            await until(lambda: _ready_or_dead(runtime), "the runtime is ready", 60)
            assert process.returncode is None, log.read_text()
            yield runtime
        finally:
            if process.returncode is None:
                process.terminate()
            await asyncio.wait_for(process.wait(), 30)


async def refusal(model: Path | str, base: str, folder: Path, **settings: Any) -> dict[str, str]:
    """Starts a runtime that must end with exit code 1: the reason and the message that it leaves to the kubelet."""
    termination = folder / "termination"
    termination.touch()
    process, *_ = await start(model, base, folder, **settings)
    assert await asyncio.wait_for(process.wait(), 30) == 1
    return dict(json.loads(termination.read_text()))


async def start(
    model: Path | str, base: str, folder: Path, **settings: Any
) -> tuple[asyncio.subprocess.Process, int, int, Path]:
    """Starts a runtime without waiting for it: its process, its two ports, its log."""
    port, probe_port = free_port(), free_port()
    key_file = folder / "key"
    if not key_file.exists():
        key_file.write_text(KEY)
    lm = {"model": "openai/standin", "api_base": base, "api_key_file": str(key_file), "max_retries": 0}
    content = {
        "host": "127.0.0.1",
        "port": port,
        "probe_port": probe_port,
        "work_folder": str(folder),
        "termination_log": str(folder / "termination"),
        **settings,
        "lm": {**lm, **settings.get("lm", {})},
    }
    file = folder / "settings.json"
    file.write_text(json.dumps(content))
    environment = {**os.environ, SETTINGS_FILE: str(file)}
    log = folder / "runtime.log"
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "dspy_runtime", str(model), env=environment, stdout=output, stderr=output, cwd=folder
        )
    return process, port, probe_port, log


async def _ready_or_dead(runtime: Runtime) -> bool:
    return runtime.process.returncode is not None or await runtime.ready()
