"""The gateway beside the direct path to the same runtime under the same load, taken in turns."""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.load import cpu_seconds, load
from benchmarks.runtime import FAST_LM_SECONDS, FIELDS, provider, save
from benchmarks.show import percentile, show
from dspy_contract.routes import Backend, Conversations, ReleaseRef, Users
from dspy_contract.stat_names import mirrored
from dspy_gateway.resources import Endpoint
from tests.integration.gateway import Gateway, Upstream, free_port, inputs_of, running_gateway
from tests.integration.runtime import running_runtime

UID = "0b5c6d7e-0000-4000-8000-000000000001"
ROUNDS, REQUESTS = 7, 600
DRAW_ROUNDS, DRAW_REQUESTS, USERS = 7, 8_000, 2_000


def main() -> None:
    """p50 and CPU per request, direct and through the gateway, in alternating rounds."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_main(Path(folder)))


async def _main(folder: Path) -> None:
    async with provider(FAST_LM_SECONDS) as base:
        save(folder / "model", base)
        async with running_runtime(folder / "model", base, folder) as runtime:
            await _compare(folder / "gateway", int(runtime.url.rpartition(":")[2]), runtime.process.pid)
    await _draws(folder / "draws")


async def _compare(folder: Path, port: int, runtime_pid: int) -> None:
    inputs = inputs_of(UID, 1, {"only": 10_000}, {"only": Upstream("only", port)}, free_port())
    inputs = inputs.with_slice("only", "only-slice", (Endpoint("127.0.0.1", ready=True, serving=True, port=port),))
    async with running_gateway(folder, inputs) as gateway:
        assert gateway.envoy is not None
        direct, through = f"http://127.0.0.1:{port}/predict", gateway.url(UID)
        latency_ratios, cpu_ratios, added_ms, cpu_ms = [], [], [], []
        for _ in range(ROUNDS):
            straight, _, runtime_cpu = await _measure(direct, gateway.envoy.pid, runtime_pid)
            roundabout, envoy_cpu, _ = await _measure(through, gateway.envoy.pid, runtime_pid)
            latency_ratios.append(roundabout / straight)
            added_ms.append(roundabout - straight)
            cpu_ms.append(envoy_cpu)
            cpu_ratios.append((runtime_cpu + envoy_cpu) / runtime_cpu)
    rows = [
        ["p50, one request at a time, 5 ms provider", f"+{median(added_ms):.2f} ms", f"{median(latency_ratios):.3f}x"],
        ["CPU a request, Envoy beside the runtime's own", f"+{median(cpu_ms):.3f} ms", f"{median(cpu_ratios):.3f}x"],
    ]
    show(f"Gateway, paired with the direct path (median of {ROUNDS} rounds)", ["", "added", "ratio"], rows)


@dataclass(frozen=True, slots=True)
class Draw:
    """What a gateway may draw besides requests: what that changes of the routes, and of the clients' headers."""

    title: str
    routes: dict[str, Any]
    headers: list[dict[str, str]]
    aim: str = ""


RELEASE = ReleaseRef(1, "old", ("new",))
HALVES = (Backend("old", 5_000), Backend("new", 5_000))
PLAIN: dict[str, Any] = {"release": RELEASE, "backends": HALVES, "users": None, "conversations": None}
DRAWS = (
    Draw("requests", {}, [{"x-user-id": str(user)} for user in range(USERS)]),
    Draw(
        "users",
        {"users": Users(header="x-user-id", cookie="dspy-user", cookie_seconds=3600)},
        [{"x-user-id": str(user)} for user in range(USERS)],
        "<= 1.05x",
    ),
    Draw(
        "conversations",
        {"conversations": Conversations(header="x-chat", cookie="chat", cookie_seconds=3600)},
        [{"x-chat": f"{('old', 'new')[user % 2]}.5000.0.1.{user}"} for user in range(USERS)],
        "<= 1.05x",
    ),
    Draw(
        "requests, a tenth of them copied",
        {"backends": (Backend("old", 10_000), Backend("new", 0, mirror=1_000))},
        [{"x-user-id": str(user)} for user in range(USERS)],
    ),
)


async def _draws(folder: Path) -> None:
    """What it costs to draw something else than requests: the same load through the same gateway, in turns.

    The agent lives in this process, beside the client and the program's stand-in, whose work is the same in all.
    """
    async with Upstream("only").running() as upstream:
        upstreams = {"old": upstream, "new": replace(upstream, name="new")}
        inputs = inputs_of(UID, 1, {"old": 5_000, "new": 5_000}, upstreams, free_port())
        async with running_gateway(folder, inputs) as gateway:
            found: dict[str, list[tuple[float, float]]] = {draw.title: [] for draw in DRAWS}
            for draw in DRAWS * DRAW_ROUNDS:
                routes = gateway.agent.desired.routes[UID]
                asked = replace(routes, serial=routes.serial + 1, **{**PLAIN, **draw.routes})
                await gateway.serve(gateway.agent.desired.with_routes(asked))
                weighs = mirrored("new") if asked.backends[1].mirror else "new"
                await gateway.guarded(UID, RELEASE.id, weighs)
                found[draw.title].append(await _gateway_cpu(gateway, draw.headers))
    plain = found[DRAWS[0].title]
    rows = []
    for draw in DRAWS:
        cells = []
        for which in (0, 1):
            ratio = median(b[which] / a[which] for a, b in zip(plain, found[draw.title], strict=True))
            cells += [f"{median(each[which] for each in found[draw.title]):.3f} ms", f"{ratio:.3f}x"]
        rows.append([draw.title, *cells, draw.aim])
    title = f"CPU a request by what is drawn ({USERS:,} users, median of {DRAW_ROUNDS} rounds in turns)"
    show(title, ["", "Envoy", "ratio", "agent, client, stand-in", "ratio", "aim (Envoy)"], rows)


async def _gateway_cpu(gateway: Gateway, headers: list[dict[str, str]]) -> tuple[float, float]:
    """Envoy's and this process' CPU, in milliseconds a request."""
    assert gateway.envoy is not None
    envoy, own = cpu_seconds(gateway.envoy.pid), time.process_time()
    await load(gateway.url(UID), FIELDS, DRAW_REQUESTS, 16, headers=headers)
    return (
        (cpu_seconds(gateway.envoy.pid) - envoy) * 1000 / DRAW_REQUESTS,
        (time.process_time() - own) * 1000 / DRAW_REQUESTS,
    )


async def _measure(url: str, envoy_pid: int, runtime_pid: int) -> tuple[float, float, float]:
    """p50, Envoy's CPU and the runtime's CPU, each in milliseconds a request."""
    before = cpu_seconds(envoy_pid), cpu_seconds(runtime_pid)
    result = await load(url, FIELDS, REQUESTS, 1)
    after = cpu_seconds(envoy_pid), cpu_seconds(runtime_pid)
    envoy, runtime = ((later - earlier) * 1000 / REQUESTS for later, earlier in zip(after, before, strict=True))
    return percentile(result.latencies, 50) * 1000, envoy, runtime
