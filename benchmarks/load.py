"""Load on loopback, bounded in count, and the CPU time that a process tree spent meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Result:
    """What a load measured: requests a second, latencies in seconds, and failures."""

    rate: float
    latencies: list[float]
    failures: int


async def load(
    url: str,
    body: Any,
    requests: int,
    clients: int,
    spread_seconds: float = 0.0,
    headers: Sequence[Mapping[str, str]] = ({},),
) -> Result:
    """Sends `requests` over `clients` connections, each as soon as its last was answered, with these headers in turn.
    `body` may be a function of the request's number.

    Clients begin within `spread_seconds`: all at once they would stay a wave for ever. The rate is that of the answers
    from when the last has begun until there is nothing more to send.
    """
    left: Iterator[int] = iter(range(requests))
    latencies: list[float] = []
    ended: list[float] = []
    failures, sent_at = 0, 0.0

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        nonlocal failures, sent_at
        await asyncio.sleep(spread_seconds * number / clients)
        for each in left:
            sent_at = started = time.perf_counter()
            content = body(each) if callable(body) else body
            async with session.post(url, json=content, headers=headers[each % len(headers)]) as response:
                await response.read()
                failures += response.status != 200
            ended.append(time.perf_counter())
            latencies.append(ended[-1] - started)

    connector = aiohttp.TCPConnector(limit=clients)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=120)) as session:
        begun_at = time.perf_counter() + spread_seconds
        await asyncio.gather(*(client(session, number) for number in range(clients)))
    until = sent_at if spread_seconds else ended[-1]
    rate = sum(begun_at <= each <= until for each in ended) / (until - begun_at)
    return Result(rate, latencies, failures)


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and of all its descendants so far."""
    total = 0.0
    for process in [pid, *_descendants(pid)]:
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += (int(fields[11]) + int(fields[12])) / TICKS
    return total


def resident_mib(pid: int) -> int:
    """A process' resident memory in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) // 1024


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *_descendants(int(child))]
    return found


@contextlib.contextmanager
def busy_cores() -> Iterator[None]:
    """Work of the lowest priority on every core, as other pods of a node would do it."""
    command = ["nice", "-n", "19", sys.executable, "-c", "while True: pass"]
    working = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in working:
            process.kill()
            process.wait()
