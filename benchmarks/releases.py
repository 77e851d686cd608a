"""Figures of releases on a cluster: rollback, route change, first answer, candidate's start."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import dataclass, replace
from datetime import datetime
from statistics import median
from typing import Any

import aiohttp
import numpy as np

from benchmarks.load import busy_cores
from benchmarks.show import percentile, show, spread
from dev.cluster.choose import cluster as choose
from dev.cluster.deploy import SYSTEM, deploy, kubectl
from dev.cluster.interface import Cluster
from dev.draws import until_lowered
from dev.world import World, program, rollout
from dspy_contract.routes import CONTENT_KEY, Backend, Routes, dump, load_routes
from dspy_kube.client import MERGE, Kube
from dspy_operator.domain.analysis.streams import FAILED, SLOW, Stream

CLUSTER = "dspy-bench"
NAME = "triage"
ROLLBACKS, STARTS, CHANGES, FAULT_RUNS = 10, 5, 50, 5
QUIET: dict[str, Any] = {"slow_when": "", "error_when": "", "error_when_share": 1.0, "error_share": 0.0}
RATE = 20.0
STEADY_SECONDS = 10
"""Of traffic before a release: how fast a program answers is known of one that serves."""

RIVALS = "Argo Rollouts, most aggressive: 2.1 s, 6; Flagger: 19 s, 41 (measured once on such a cluster)"


def main() -> None:
    """Makes a cluster, measures, and removes the cluster."""
    cluster = choose(CLUSTER)
    cluster.create()
    try:
        deploy(cluster, {"DSPY_OPERATOR_REGISTRY_POLL_SECONDS": "2"})
        numbers = World(cluster, "default").log(*({"name": NAME, "kind": kind} for kind in ("good", "better", "bad")))
        uris = [f"models:/{NAME}/{number}" for number in numbers]
        _starts(cluster, uris)
        _rollbacks(cluster, uris)
        _faults(cluster, uris[0])
        _route_changes(cluster, uris)
    finally:
        if not os.environ.get("KEEP_CLUSTER"):
            cluster.delete()


def _starts(cluster: Cluster, uris: list[str]) -> None:
    """kubectl apply of a namespace's first program to its first 200; a candidate's creation to its readiness."""
    rows = _measured_starts(cluster, uris, "start")
    with busy_cores():
        busy = _measured_starts(cluster, uris, "busy")
    rows = [[*row, beside[1]] for row, beside in zip(rows, busy, strict=True)]
    show("Start", ["", "median", "aim", "beside nice work on every core"], rows)


def _measured_starts(cluster: Cluster, uris: list[str], name: str) -> list[list[str]]:
    first, candidate = [], []
    for run in range(STARTS):
        world = World(cluster, f"{name}-{run}")
        world.begin()
        applied = time.time()
        world.apply(rollout(NAME, [{"setWeight": 10}, {"pause": {"seconds": 600}}]), program(NAME, uris[0]))
        with world.traffic(NAME, RATE) as traffic:
            world.wait(lambda: any(answer.status == 200 for answer in traffic.answers), "the first 200")
            first.append(min(answer.answered for answer in traffic.answers if answer.status == 200) - applied)
        world.set_model(NAME, uris[1])
        world.wait(lambda: "CandidateReady" in _reasons(world), "the candidate is ready")  # noqa: B023
        candidate.append(_event_time(world, "CandidateReady") - _event_time(world, "ReleaseStarted"))
        world.end()
    return [
        ["first program applied to its first 200", spread(first), "<= 10 s"],
        ["candidate created to ready", spread(candidate), "<= 5 s"],
    ]


def _rollbacks(cluster: Cluster, uris: list[str]) -> None:
    """First bad answer that a client saw to the last request that reached the candidate, which always fails."""
    world = World(cluster, "rollback")
    world.begin()
    world.apply(rollout(NAME, [{"setWeight": 10}, {"pause": {"seconds": 600}}]), program(NAME, uris[0]))
    world.wait_condition(NAME, "Available", "True")
    seconds, bad = [], []
    for run in range(ROLLBACKS):
        with world.traffic(NAME, RATE) as traffic:
            # A setting that changes no answer makes a new revision of the bad version for every run.
            serving = {"serving": {"queue": 65 + run}, "model": {"uri": uris[2]}}
            world.kubectl("patch", "dspyprogram", NAME, "--type=merge", "-p", json.dumps({"spec": serving}))
            world.wait(lambda: _refused(world, run), f"rollback {run}")  # noqa: B023
            wanted = world.get("dspyprogram", NAME)["status"]["wanted"]["revision"]
            world.wait(lambda: wanted not in world.names("deployments"), "the candidate is gone")  # noqa: B023
        own = [answer for answer in traffic.answers if answer.revision == wanted]
        failures = [answer.answered for answer in own if answer.status != 200]
        seconds.append(max(0.0, max(answer.asked for answer in own) - min(failures)))
        bad.append(float(len(failures)))
    world.end()
    rows = [
        ["first bad answer to the last request at the candidate", spread(seconds), "<= 1.0 s"],
        ["bad answers", spread(bad, "", 0), "<= 4"],
        ["  four failures, which alpha asks for, at 2 a second: their limit", "1.5 s", ""],
        ["  rivals", RIVALS, ""],
    ]
    show("Rollback (20 requests a second, weight 10%, a candidate that always fails)", ["", "median", "aim"], rows)


@dataclass(frozen=True, slots=True)
class Fault:
    """How a candidate is bad: what the provider does when it reads the words in its prompt, and how often that makes an
    answer bad in the eyes of which stream, where draws alone tell when it goes."""

    title: str
    provider: dict[str, Any]
    rate: float
    aim: str = ""
    stream: Stream | None = None
    share: float = 1.0


WORDS = "Take your time."
FAULTS = (
    Fault("hangs, 20 requests a second", {"slow_when": WORDS, "slow_seconds": 300.0}, 20, "<= 20 s"),
    Fault("hangs, 100 requests a second", {"slow_when": WORDS, "slow_seconds": 300.0}, 100, "<= 10 s"),
    Fault("answers in 2 s instead of 0.5 s", {"slow_when": WORDS, "slow_seconds": 2.0}, 20, stream=SLOW),
    Fault("always fails", {"error_when": WORDS}, 20, stream=FAILED),
    Fault("fails 20 %", {"error_when": WORDS, "error_when_share": 0.2}, 20, stream=FAILED, share=0.2),
)
SLOW_STABLE = 0.05
"""Of the stable answers are slower than the bound of `slow`."""
SIMULATED, WEIGHT = 1_000, 0.1


def _faults(cluster: Cluster, good: str) -> None:
    """From the weight of 10 % to the moment at which the candidate lost it, by the operator's own log."""
    world = World(cluster, "faults")
    world.begin()
    (number,) = world.log({"name": NAME, "kind": f"Sort a customer's message into a category. {WORDS}"})
    serves = program(NAME, good)
    serves["spec"]["lm"]["maxRetries"] = 0  # else hardly an answer fails of those whose calls fail now and then
    world.apply(rollout(NAME, [{"setWeight": 100 * WEIGHT}, {"pause": {"seconds": 600}}]), serves)
    world.wait_condition(NAME, "Available", "True")
    rows, run = [], 0
    for fault in FAULTS:
        seconds = []
        world.set_lm(**{**QUIET, "latency_seconds": 0.5, **fault.provider})
        for _ in range(FAULT_RUNS):
            run += 1
            spec = {"serving": {"queue": 200 + run}, "model": {"uri": f"models:/{NAME}/{number}"}}
            seconds.append(_until_lowered(world, fault, spec, good))
        rows.append([fault.title, spread(seconds), _simulated(fault), fault.aim])
    world.end()
    columns = ["a candidate that", "median", "by its draws alone, simulated (10 to 90 %)", "aim"]
    show("Until lowered (weight 10%, stable answers in 0.5 s)", columns, rows)


def _until_lowered(world: World, fault: Fault, spec: dict[str, Any], good: str) -> float:
    """Seconds from a candidate's readiness to the loss of its weight. Then the good version is asked for again."""

    def is_lowered() -> bool:
        return "CandidateLowered" in _told(world, world.wanted(NAME))

    with world.traffic(NAME, fault.rate) as traffic:
        world.wait(lambda: len(traffic.answers) >= STEADY_SECONDS * fault.rate, "stable serves")
        world.kubectl("patch", "dspyprogram", NAME, "--type=merge", "-p", json.dumps({"spec": spec}))
        # The operator's log has the times: whoever asks for it all the time takes the half of the machine.
        world.wait(is_lowered, fault.title, 600, pause=3)
        told = _told(world, world.wanted(NAME))
        back = {"serving": None, "model": {"uri": good}}
        world.kubectl("patch", "dspyprogram", NAME, "--type=merge", "-p", json.dumps({"spec": back}))
        world.wait_condition(NAME, "Current", "True")
    return told["CandidateLowered"] - told["CandidateReady"]


def _simulated(fault: Fault) -> str:
    """Seconds until so many requests have come as the judgement needs, without those that an answer and a look take."""
    if fault.stream is None:
        return ""
    chance, stable = np.random.default_rng(1), SLOW_STABLE if fault.stream is SLOW else 0.0
    seconds = [
        until_lowered(chance, stable, fault.share, WEIGHT, 10_000, stream=fault.stream)[0] / (fault.rate * WEIGHT)
        for _ in range(SIMULATED)
    ]
    return f"{median(seconds):.1f} s ({percentile(seconds, 10):.1f} to {percentile(seconds, 90):.1f})"


def _told(world: World, revision: str) -> dict[str, float]:
    """When the operator emitted each event of a revision, by reason."""
    found = {}
    for line in kubectl(world.cluster, "logs", "-n", SYSTEM, "deployment/dspy-operator").splitlines():
        told: dict[str, Any] = json.loads(line)
        if told.get("namespace") == world.namespace and revision in str(told.get("event")) and "reason" in told:
            found[told["reason"]] = datetime.fromisoformat(told["timestamp"].replace("Z", "+00:00")).timestamp()
    return found


def _route_changes(cluster: Cluster, uris: list[str]) -> None:
    """ConfigMap write returned to the last answer under the old serial, at the slower of the gateway pods."""
    world = World(cluster, "routes")
    world.begin()
    world.apply(rollout(NAME, [{"setWeight": 50}, {"pause": {"seconds": 6000}}]), program(NAME, uris[0]))
    world.wait_condition(NAME, "Available", "True")
    world.set_model(NAME, uris[1])
    world.wait(lambda: world.rollout(NAME).get("weight") == "50", "two revisions serve")
    kubectl(cluster, "scale", "-n", SYSTEM, "deployment/dspy-operator", "--replicas=0")
    kubectl(
        cluster,
        "wait",
        "-n",
        SYSTEM,
        "--for=delete",
        "pod",
        "-l",
        "app.kubernetes.io/name=dspy-operator",
        "--timeout=60s",
    )
    seconds = asyncio.run(_change(cluster, world))
    kubectl(cluster, "scale", "-n", SYSTEM, "deployment/dspy-operator", "--replicas=1")
    rows = [
        [
            "ConfigMap write returned to the last old answer",
            f"{spread([1000 * each for each in seconds], 'ms', 1)}",
            "<= 25 ms",
        ],
        ["  95th percentile", f"{1000 * percentile(seconds, 95):.1f} ms", ""],
    ]
    title = "Route change: a blue-green switch, and the way back (one client for each gateway pod)"
    show(title, ["", "median", "aim"], rows)


async def _change(cluster: Cluster, world: World) -> list[float]:
    os.environ["KUBECONFIG"] = str(cluster.kubeconfig())
    kube = await Kube.connect()
    path = f"/api/v1/namespaces/{world.namespace}/configmaps/{NAME}-routes"
    routes = load_routes((await kube.request("GET", path))["data"][CONTENT_KEY])
    addresses = world.kubectl(
        "get", "pods", "-l", "app.kubernetes.io/name=dspy-gateway", "-o", "jsonpath={.items[*].status.podIP}"
    ).split()
    port = world.get("service", NAME)["spec"]["ports"][0]["targetPort"]
    seen: list[tuple[float, int]] = []
    seconds = []
    async with aiohttp.ClientSession() as session:
        clients = [
            asyncio.create_task(_ask_on(session, f"http://{address}:{port}/schema", seen)) for address in addresses
        ]
        for change in range(CHANGES):
            routes = _flipped(routes, change)
            await kube.request("PATCH", path, {}, {"data": {CONTENT_KEY: dump(routes)}}, MERGE)
            returned = time.time()
            await asyncio.sleep(0.4)
            old = [answered for answered, serial in seen if serial < routes.serial]
            seconds.append(max(0.0, max(old, default=returned) - returned))
            seen.clear()
        for client in clients:
            client.cancel()
    await kube.close()
    return seconds


def _flipped(routes: Routes, change: int) -> Routes:
    weights = (10_000, 0) if change % 2 else (0, 10_000)
    backends = tuple(
        Backend(backend.revision, weight) for backend, weight in zip(routes.backends, weights, strict=False)
    )
    return replace(routes, serial=routes.serial + 1, backends=backends)


async def _ask_on(session: aiohttp.ClientSession, url: str, seen: list[tuple[float, int]]) -> None:
    while True:
        async with session.get(url) as response:
            await response.read()
            seen.append((time.time(), int(response.headers["x-dspy-serial"])))


def _reasons(world: World) -> list[str]:
    return world.kubectl("get", "events", "-o", "jsonpath={.items[*].reason}").split()


def _event_time(world: World, reason: str) -> float:
    """When the operator told an event, to the fraction of a second: from its own log, since events have whole
    seconds."""
    for line in kubectl(world.cluster, "logs", "-n", SYSTEM, "deployment/dspy-operator").splitlines():
        told: dict[str, Any] = json.loads(line)
        if told.get("reason") == reason and told.get("namespace") == world.namespace:
            return datetime.fromisoformat(told["timestamp"].replace("Z", "+00:00")).timestamp()
    raise LookupError(reason)


def _refused(world: World, run: int) -> bool:
    status = world.get("dspyprogram", NAME)["status"]
    return len([ended for ended in status.get("history", ()) if ended["outcome"] == "RolledBack"]) >= min(run + 1, 10)
