"""Releases one after the other under traffic and open streams: what a switch loses.

BENCH_SWITCHES sets how many of each strategy (100 unless given). It takes about a quarter of a minute for each pair.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.show import show, spread
from dev.cluster.choose import cluster as choose
from dev.cluster.deploy import deploy
from dev.cluster.interface import Cluster, ClusterError
from dev.world import World, program, rollout

CLUSTER = "dspy-bench"
NAME = "triage"
SWITCHES = int(os.environ.get("BENCH_SWITCHES", "100"))
RATE, STREAMS = 50.0, 10
"""Of each of the two programs that are released at once."""

EVENT_SECONDS = 0.4
"""Between two events of a stream: one lasts for several seconds, and so through switches."""

FAST: list[dict[str, Any]] = [
    {"setWeight": 20},
    {"pause": {"seconds": 1}},
    {"setWeight": 60},
    {"pause": {"seconds": 1}},
]
STRATEGIES: Mapping[str, dict[str, Any]] = {
    "Canary": {"type": "Canary", "canary": {"steps": FAST}},
    "BlueGreen": {"type": "BlueGreen", "blueGreen": {"warmSeconds": 1}},
}


def main() -> None:
    """Makes a cluster, releases, and removes the cluster."""
    cluster = choose(CLUSTER)
    cluster.create()
    try:
        deploy(cluster, {"DSPY_OPERATOR_REGISTRY_POLL_SECONDS": "2"})
        (number,) = World(cluster, "default").log({"name": NAME, "kind": "good"})
        with ThreadPoolExecutor(len(STRATEGIES)) as pool:
            rows = list(pool.map(lambda name: _released(cluster, name, f"models:/{NAME}/{number}"), STRATEGIES))
    finally:
        if not os.environ.get("KEEP_CLUSTER"):
            cluster.delete()
    title = f"{SWITCHES} releases of each, at once, at {RATE:g} requests a second and {STREAMS} open streams each"
    show(title, ["", "release", "went back", "requests", "lost", "streams", "cut", "aim"], rows)


def _released(cluster: Cluster, strategy: str, uri: str) -> list[str]:
    world = World(cluster, f"switch-{strategy.lower()}")
    world.begin()
    world.set_lm(latency_seconds=0.02, event_seconds=EVENT_SECONDS)
    policy = rollout(NAME, [], strategy=STRATEGIES[strategy], analysis={"onUndecided": "Promote"})
    world.apply(policy, program(NAME, uri))
    world.wait_condition(NAME, "Available", "True")
    with world.traffic(NAME, RATE, streams=STREAMS) as traffic:
        took = [_release(world, run) for run in range(SWITCHES)]
    world.end()
    seconds = [each for each in took if each is not None]
    streams = [answer for answer in traffic.answers if answer.streamed]
    cut = [answer for answer in traffic.failed() if answer.streamed]
    lost = [answer for answer in traffic.failed() if not answer.streamed]
    for answer in [*lost, *cut][:10]:
        print(f"{strategy}: {answer}")
    requests = len(traffic.answers) - len(streams)
    back = str(len(took) - len(seconds))
    traffic_row = [f"{requests:,}", str(len(lost)), f"{len(streams):,}", str(len(cut))]
    return [strategy, spread(seconds), back, *traffic_row, "0, 0 and 0"]


def _release(world: World, run: int) -> float | None:
    """Releases a revision that answers as the last one did; how long that took, None where it was not promoted."""
    began = time.time()
    # A setting that changes no answer makes a new revision of the same version.
    spec = {"serving": {"queue": 65 + run}}
    world.kubectl("patch", "dspyprogram", NAME, "--type=merge", "-p", json.dumps({"spec": spec}))
    generation = world.get("dspyprogram", NAME)["metadata"]["generation"]
    try:
        for condition in (f"jsonpath={{.status.observedGeneration}}={generation}", "condition=Current"):
            world.kubectl("wait", f"dspyprogram/{NAME}", f"--for={condition}", "--timeout=180s")
    except ClusterError:
        print(f"Release {run} of {world.namespace} was not promoted: {world.condition(NAME, 'Current')}")
        return None
    return time.time() - began
