"""What one operator costs: idle programs, releases that move at once, candidates that turn bad, and a start.

`python -m benchmarks.scale.measure` runs inside the namespaces that `benchmarks.scale` makes.
"""

from __future__ import annotations

import asyncio
import functools
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import click

from benchmarks.load import cpu_seconds, resident_mib
from benchmarks.scale.gateways import Gateways
from benchmarks.show import CONSOLE, percentile, show
from dev.cluster.pretended.control_plane import ControlPlane, running
from dev.cluster.pretended.installation import MODEL, connect, install, make_lm_secret, make_versions, program, rollout
from dspy_contract.garbage import collect_rarely
from dspy_contract.routes import Routes
from dspy_kube.client import MERGE, Kube, Object
from dspy_kube.watch import Watch
from dspy_operator.kube.paths import path

IDLE_SECONDS = 60.0
MOVING_SECONDS = 60.0
ARGO = "500 idle objects: 132 MB, 0.59 CPU s a minute, reconciled in 48 s (measured once, on a cluster)"


@dataclass
class Bench:
    """The cluster, the agents, and the operator under measurement."""

    plane: ControlPlane
    kube: Kube
    gateways: Gateways
    variables: dict[str, str]
    programs: _Programs
    operator: subprocess.Popen[bytes] | None = None

    def start_operator(self) -> float:
        """Starts the operator; returns when."""
        self.operator = self.plane.start("operator", [sys.executable, "-m", "dspy_operator"], self.variables)
        return time.monotonic()

    def end_operator(self) -> None:
        """Ends it as a node that fails does."""
        assert self.operator is not None
        self.operator.kill()
        self.operator.wait()

    def cpu(self) -> float:
        """Seconds of the operator's CPU."""
        return cpu_seconds(self._running())

    def memory(self) -> int:
        """MiB of the operator's memory."""
        return resident_mib(self._running())

    def _running(self) -> int:
        """The operator's process; raises with its last words when it has ended by itself."""
        assert self.operator is not None
        if self.operator.poll() is not None:
            words = (self.plane.folder / "operator.log").read_text().splitlines()[-20:]
            raise RuntimeError("\n".join(["the operator has ended; the last that it said:", *words]))
        return self.operator.pid

    def reads(self) -> dict[str, int]:
        """The operator's requests so far, watches and its Lease aside, by verb."""
        found: dict[str, int] = {}
        with (self.plane.folder / "audit.log").open() as lines:
            for line in lines:
                told = json.loads(line)
                if told.get("objectRef", {}).get("resource") != "leases":
                    found[told["verb"]] = found.get(told["verb"], 0) + 1
        return found

    def release(self, uid: str) -> Routes | None:
        """The routes of a program."""
        return next((each[uid] for each in self.gateways.routes.values() if uid in each), None)


@click.command()
@click.option("--idle", default="100,1000,10000", show_default=True, help="Numbers of idle programs to stop at.")
@click.option("--moving", default=1000, show_default=True, help="Releases that move at once.")
@click.option("--namespaces", default=100, show_default=True)
def main(idle: str, moving: int, namespaces: int) -> None:
    """Runs the whole measurement."""
    collect_rarely()  # this process is not what is measured
    with running() as plane:
        asyncio.run(_measure(plane, [int(each) for each in idle.split(",")], moving, namespaces))


async def _measure(plane: ControlPlane, stops: list[int], moving: int, namespaces: int) -> None:
    uris = await make_versions(plane)
    variables = install(plane)
    kube = await connect(plane)
    gateways = Gateways(kube)
    agents = asyncio.create_task(gateways.run())
    programs = _Programs()
    bench = Bench(plane, kube, gateways, variables, programs)
    watch = asyncio.create_task(Watch(kube, "/apis/dspy.dev/v1alpha1/dspyprograms", {}, programs).run())
    for number in range(namespaces):
        await kube.request("POST", "/api/v1/namespaces", None, {"metadata": {"name": _namespace(number)}})
        await make_lm_secret(kube, _namespace(number))
    bench.start_operator()
    rows, made = [], 0
    for stop in stops:
        began = time.monotonic()
        await _make(bench, range(made, stop), namespaces, uris[0])
        await _until(functools.partial(bench.programs.serve, stop), f"{stop} programs are served", 3600)
        rate = (stop - made) / (time.monotonic() - began)
        rows.append([f"{stop} idle", *await _idle(bench), f"{rate:.0f} a second"])
        made = stop
        _print("Programs", rows)
        if stop == moving:
            await _releases(bench, namespaces, uris)
    await _restart(bench, uris)
    agents.cancel()
    watch.cancel()
    await kube.close()


def _print(title: str, rows: list[list[str]]) -> None:
    show(title, ["", "operator's memory", "its CPU, s a minute", "its reads a minute", "served"], rows)


async def _idle(bench: Bench) -> list[str]:
    """Memory, CPU and reads while nothing happens, once the last writes have been digested."""
    await asyncio.sleep(20)
    cpu, reads = bench.cpu(), bench.reads()
    await asyncio.sleep(IDLE_SECONDS)
    after = bench.reads()
    lists = {verb: after.get(verb, 0) - reads.get(verb, 0) for verb in ("get", "list")}
    told = ", ".join(f"{count} {verb}s" for verb, count in lists.items() if count) or "none"
    return [f"{bench.memory()} MiB", f"{(bench.cpu() - cpu) * 60 / IDLE_SECONDS:.1f}", told]


async def _releases(bench: Bench, namespaces: int, uris: list[str]) -> None:
    """All programs release at once; then every candidate turns bad, one after the other."""
    uids = sorted(uid for each in bench.gateways.routes.values() for uid in each)
    steps: list[dict[str, Any]] = [{"setWeight": 50}, {"pause": {"seconds": 6000}}]
    await asyncio.gather(*(_policy(bench, number, len(uids), namespaces, steps) for number in range(namespaces)))
    began = time.monotonic()
    await asyncio.gather(*(_set_model(bench, number, len(uids), namespaces, uris[1]) for number in range(namespaces)))
    await _until(lambda: len(_at_weight(bench)) >= len(uids), f"{len(uids)} releases move", 1800)
    moved = time.monotonic() - began
    await asyncio.sleep(10)
    cpu, polls = bench.cpu(), bench.gateways.polls
    await asyncio.sleep(MOVING_SECONDS)
    share = (bench.cpu() - cpu) / MOVING_SECONDS
    rows = [
        ["all at their first weight after", f"{moved:.0f} s", ""],
        ["operator's CPU while they move", f"{share:.2f} cores", "<= 1"],
        ["operator's memory", f"{bench.memory()} MiB", "<= 300 MiB"],
        ["polls answered", f"{(bench.gateways.polls - polls) / MOVING_SECONDS:.0f} a second", ""],
    ]
    show(f"{len(uids)} releases moving in {namespaces} namespaces", ["", "", "aim"], rows)
    order = list(uids)
    random.Random(1).shuffle(order)
    where = {uid: namespace for namespace, each in bench.gateways.routes.items() for uid in each}
    for uid in order:
        await bench.gateways.turn_bad(uid, where[uid])
        await asyncio.sleep(MOVING_SECONDS / len(order))
    await _until(lambda: len(bench.gateways.lowered_at) >= len(uids), "all bad candidates are lowered", 600)
    told, lowered = bench.gateways.told_at, bench.gateways.lowered_at
    seconds = [max(0.0, lowered[uid] - told[uid]) for uid in uids if uid in told]
    rows = [
        ["median", f"{median(seconds):.2f} s", ""],
        ["99th percentile", f"{percentile(seconds, 99):.2f} s", "<= 1 s"],
        ["longest", f"{max(seconds):.2f} s", ""],
    ]
    show("Bad answer in /state to routes without the candidate", ["", "", "aim"], rows)
    for number in range(namespaces):
        await bench.kube.request("DELETE", path("DSPyRollout", _namespace(number)))


async def _restart(bench: Bench, uris: list[str]) -> None:
    """One release moves; the operator ends and starts: seconds until its guard looks at the release."""
    namespace = _namespace(0)
    await bench.kube.request(
        "POST",
        path("DSPyRollout", namespace),
        None,
        rollout(f"{MODEL}-0", [{"setWeight": 10}, {"pause": {"seconds": 6000}}]),
    )
    await bench.kube.request(
        "PATCH", path("DSPyProgram", namespace, f"{MODEL}-0"), {}, {"spec": {"model": {"uri": uris[2]}}}, MERGE
    )
    await _until(
        lambda: any(each.release for each in bench.gateways.routes[namespace].values()), "one release moves", 300
    )
    uid = next(uid for uid, each in bench.gateways.routes[namespace].items() if each.release)
    await _until(lambda: uid in bench.gateways.guarded, "it is guarded", 60)
    bench.end_operator()  # its last poll may still be answered, and is no look of the next one
    count, began = len(bench.programs.available), bench.start_operator()
    await _until(lambda: bench.gateways.guarded[uid][0] > began, "it is guarded again", 600)
    seconds = bench.gateways.guarded[uid][1] - began
    await asyncio.sleep(120)
    rows = [
        ["to the first look at a moving release", f"{seconds:.1f} s", "<= 30 s"],
        ["memory two minutes later", f"{bench.memory()} MiB", "<= 1000 MiB"],
        ["  Argo Rollouts", ARGO, ""],
    ]
    show(f"Start with {count} programs, after a fail-over", ["", "", "aim"], rows)


async def _make(bench: Bench, numbers: range, namespaces: int, uri: str) -> None:
    gate = asyncio.Semaphore(32)

    async def one(number: int) -> None:
        namespace = _namespace(number % namespaces)
        async with gate:
            await bench.kube.request(
                "POST",
                path("DSPyProgram", namespace),
                None,
                program(f"{MODEL}-{number // namespaces}", uri, "openai/none"),
            )

    await asyncio.gather(*(one(number) for number in numbers))


async def _policy(bench: Bench, number: int, count: int, namespaces: int, steps: list[dict[str, Any]]) -> None:
    for index in range(len(range(number, count, namespaces))):
        await bench.kube.request(
            "POST", path("DSPyRollout", _namespace(number)), None, rollout(f"{MODEL}-{index}", steps)
        )


async def _set_model(bench: Bench, number: int, count: int, namespaces: int, uri: str) -> None:
    for index in range(len(range(number, count, namespaces))):
        place = path("DSPyProgram", _namespace(number), f"{MODEL}-{index}")
        await bench.kube.request("PATCH", place, {}, {"spec": {"model": {"uri": uri}}}, MERGE)


async def _until(holds: Callable[[], bool], words: str, seconds: float) -> None:
    """Waits, and tells how far it is now and then."""
    began = told = time.monotonic()
    while not holds():
        now = time.monotonic()
        if now - began > seconds:
            raise TimeoutError(f"not within {seconds:.0f} s: {words}")
        if now - told > 30:
            CONSOLE.print(f"  waiting for {now - began:.0f} s until {words}")
            told = now
        await asyncio.sleep(0.2)


class _Programs:
    """Which programs serve, as a watch tells."""

    def __init__(self) -> None:
        self.available: set[str] = set()

    def serve(self, count: int) -> bool:
        """True when at least so many serve."""
        return len(self.available) >= count

    def put(self, item: Object, listed_at: str = "") -> None:
        conditions = {each["type"]: each["status"] for each in item.get("status", {}).get("conditions", ())}
        if conditions.get("Available") == "True":
            self.available.add(item["metadata"]["uid"])
        else:
            self.available.discard(item["metadata"]["uid"])

    def forget(self, item: Object) -> None:
        self.available.discard(item["metadata"]["uid"])

    def retain(self, found: object, version: str) -> None:
        """Nothing: programs are not deleted here."""


def _at_weight(bench: Bench) -> list[Routes]:
    every = (routes for each in bench.gateways.routes.values() for routes in each.values())
    return [routes for routes in every if routes.candidates and routes.backend(routes.candidates[0]).weight]


def _namespace(number: int) -> str:
    return f"team-{number}"


if __name__ == "__main__":
    main()
