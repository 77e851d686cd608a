"""A real Redis on loopback, from Debian's packages."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from dev.images.debian import unpacked_package
from tests.integration.gateway import free_port, until

BESIDE = ("libjemalloc2", "liblzf1", "libatomic1")
"""Packages with the libraries of Redis that a small Debian does not hold."""


@dataclass
class RunningRedis:
    """A Redis, its process, and a client that sees all of it."""

    url: str
    process: asyncio.subprocess.Process
    client: Redis

    def freeze(self) -> None:
        """It answers nothing, and no connection ends."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        os.kill(self.process.pid, signal.SIGCONT)

    async def kill(self) -> None:
        """It is gone."""
        self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def running_redis(folder: Path, *options: str, password: str = "", port: int = 0) -> AsyncIterator[RunningRedis]:
    """A Redis that answers."""
    if shutil.which("apt-get") is None:
        pytest.skip("Redis comes from Debian's packages, and there is no apt-get")
    tools, *beside = [await asyncio.to_thread(unpacked_package, name) for name in ("redis-tools", *BESIDE)]
    libraries = [str(found) for each in beside for found in each.glob("usr/lib/*-linux-*")]
    port = port or free_port()
    process = await asyncio.create_subprocess_exec(
        # Debian's server is this tool under another name.
        "redis-server",
        *("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)),
        *(("--requirepass", password) if password else ()),
        *options,
        executable=tools / "usr/bin/redis-check-rdb",
        env={**os.environ, "LD_LIBRARY_PATH": ":".join(libraries)},
        stdout=asyncio.subprocess.DEVNULL,
    )
    client = Redis(port=port, password=password or None, decode_responses=True)

    async def answers() -> bool:
        assert process.returncode is None, "Redis has ended"
        try:
            return bool(await client.ping())
        except RedisError:
            return False

    try:
        await until(answers, "Redis answers", 20)
        yield RunningRedis(f"redis://127.0.0.1:{port}/0", process, client)
    finally:
        await client.aclose()
        if process.returncode is None:
            os.kill(process.pid, signal.SIGCONT)
            process.terminate()
            await process.wait()
