"""The gateway beside the direct path: the same upstream and the same load, taken in turns."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from benchmarks.load import cpu_seconds, load
from benchmarks.show import percentile, show
from dspy_gateway.published import Endpoint
from tests.integration.gateway import Upstream, free_port, inputs_of, running_gateway, until

UID = "0b5c6d7e-0000-4000-8000-000000000001"
ROUNDS, REQUESTS = 7, 2_000


def main() -> None:
    """p50 and CPU per request, direct and through the gateway, in alternating rounds."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_main(Path(folder)))


async def _main(folder: Path) -> None:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.standin", "serve", "--host", "127.0.0.1", "--port", str(port), stdout=asyncio.subprocess.DEVNULL
    )
    try:
        await _compare(folder, port)
    finally:
        process.terminate()
        await process.wait()


async def _compare(folder: Path, port: int) -> None:
    upstream = Upstream("only", port)
    inputs = inputs_of(UID, 1, {"only": 10_000}, {"only": upstream}, free_port())
    inputs = inputs.with_slice("only", "only-slice", (Endpoint("127.0.0.1", ready=True, serving=True, port=port),))
    async with running_gateway(folder, inputs) as gateway:
        assert gateway.envoy is not None
        direct, through = f"http://127.0.0.1:{port}/predict", gateway.url(UID)
        await until(lambda: _reaches(through), "the upstream answers")
        ratios, direct_ms, through_ms, cpu_ms = [], [], [], []
        for _ in range(ROUNDS):
            straight = percentile((await load(direct, {}, REQUESTS, 1)).latencies, 50) * 1000
            before = cpu_seconds(gateway.envoy.pid)
            round_about = percentile((await load(through, {}, REQUESTS, 1)).latencies, 50) * 1000
            cpu_ms.append((cpu_seconds(gateway.envoy.pid) - before) * 1000 / REQUESTS)
            direct_ms.append(straight)
            through_ms.append(round_about)
            ratios.append(round_about / straight)
    middle = ROUNDS // 2
    rows = [
        [
            "p50, one request at a time",
            f"{sorted(through_ms)[middle]:.3f} ms",
            f"{sorted(direct_ms)[middle]:.3f} ms",
            f"{sorted(ratios)[middle]:.2f}x",
        ],
        ["Envoy's CPU a request", f"{sorted(cpu_ms)[middle]:.3f} ms", "0", ""],
    ]
    show(
        "Gateway (an upstream that answers 405 at once: the worst case for a ratio)",
        ["", "through the gateway", "direct", "paired ratio"],
        rows,
    )


async def _reaches(url: str) -> bool:
    result = await load(url, {}, 1, 1)
    return bool(result.latencies)
