"""The soak itself: `python -m tests.soak.run MINUTES`, where a pretended cluster can be."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from statistics import NormalDist, median
from typing import Any

import aiohttp
import click

from benchmarks.load import resident_mib
from dev.cluster.pretended.control_plane import ControlPlane, running
from dev.cluster.pretended.installation import connect, install, make_lm_secret, make_versions, program, rollout
from dspy_contract.routes import CONTENT_KEY, GATEWAY_NAME, load_ports
from dspy_kube.client import MERGE, Kube, NotFoundException, Object
from dspy_kube.watch import Watch
from dspy_operator.kube.paths import path
from tests.integration.gateway import until
from tests.soak.gateways import Gateways
from tests.soak.runtimes import Clients, Kind, Runtimes, model_of

PROGRAMS, NAMESPACES, RELEASES = 200, 4, 10
"""`RELEASES` are in motion at once."""

QUIET_RATE, MOVING_RATE = 0.3, 5.0
"""Requests a second to a program that rests, and to one with a release."""

FAULT_SECONDS, OPERATOR_SECONDS, SAMPLE_SECONDS = 5.0, 60.0, 60.0
KINDS = {Kind.GOOD: 0.5, Kind.FAILS: 0.4, Kind.HANGS: 0.1}
ALPHA = 0.001
MOST_GROWTH = 1.15
LATEST_SECONDS = 300.0
"""A release that takes longer than this is one that hangs."""

OPERATOR_PORT = 18_080
OBJECTS = {
    "pods": "/api/v1/pods",
    "services": "/api/v1/services",
    "secrets": "/api/v1/secrets",
    "configmaps": "/api/v1/configmaps",
    "endpointslices": "/apis/discovery.k8s.io/v1/endpointslices",
    "deployments": "/apis/apps/v1/deployments",
    "replicasets": "/apis/apps/v1/replicasets",
    "controllerrevisions": "/apis/apps/v1/controllerrevisions",
}
MOST_REVISIONS = 14
"""Of a program: those that serve or drain, and the ten that are kept."""

STEPS: list[dict[str, Any]] = [{"setWeight": 50}, {"pause": {"seconds": 10}}]
ANALYSIS = {"marginPercent": 10}
STATISTICS = ("FailsMoreOften", "RefusesMoreRequests", "ClientsLeave", "Slower")


@dataclass
class Release:
    """One release: what it is and how it ended."""

    program: str
    kind: Kind
    model: str
    """The LM's name, by which it is told from all others."""
    began: float
    revision: str = ""
    outcome: str = ""
    reason: str = ""
    seconds: float = 0.0


@dataclass
class Programs:
    """Every program as a watch tells, by namespace/name."""

    items: dict[str, Object] = field(default_factory=dict)

    def put(self, item: Object, listed_at: str = "") -> None:
        """A program."""
        self.items[f"{item['metadata']['namespace']}/{item['metadata']['name']}"] = item

    def forget(self, item: Object) -> None:
        """Nothing: programs are not deleted here."""

    def retain(self, found: object, version: str) -> None:
        """Nothing, likewise."""


@dataclass
class Soak:
    """The cluster and all that happens on it."""

    plane: ControlPlane
    kube: Kube
    clients: Clients
    variables: dict[str, str]
    programs: Programs = field(default_factory=Programs)
    ports: dict[str, int] = field(default_factory=dict)
    """By the program's uid."""
    releases: dict[str, Release] = field(default_factory=dict)
    """Those in motion, by program."""
    ended: list[Release] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    samples: list[dict[str, float]] = field(default_factory=list)
    chance: random.Random = field(default_factory=lambda: random.Random(1))
    operator: subprocess.Popen[bytes] | None = None
    number: int = 0


@click.command()
@click.argument("minutes", type=float, default=30.0)
def main(minutes: float) -> None:
    """Runs the soak, prints what was seen, and fails when anything grew or a release ended as it must not."""
    with running() as plane:
        problems = asyncio.run(_soak(plane, minutes))
    for problem in problems:
        click.echo(f"FAILED: {problem}")
    sys.exit(bool(problems))


async def _soak(plane: ControlPlane, minutes: float) -> list[str]:
    uris = await make_versions(plane)
    # The runtimes answer on the port that the operator's page has by default.
    variables, kube = {**install(plane), "DSPY_OPERATOR_PORT": str(OPERATOR_PORT)}, await connect(plane)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        soak = Soak(plane, kube, Clients(session, Counter()), variables)
        gateways, runtimes = Gateways(plane, kube), Runtimes()
        runner = await runtimes.serve()
        pods = {"labelSelector": "app.kubernetes.io/managed-by=dspy-operator"}
        watches = [
            Watch(kube, "/api/v1/pods", {"labelSelector": f"app.kubernetes.io/name={GATEWAY_NAME}"}, gateways),
            Watch(kube, "/api/v1/pods", pods, runtimes),
            Watch(kube, "/apis/dspy.dev/v1alpha1/dspyprograms", {}, soak.programs),
        ]
        tasks = [asyncio.create_task(watch.run()) for watch in watches]
        await _make(soak, uris[0])
        _start_operator(soak)
        await until(lambda: len(_serving(soak)) == PROGRAMS, f"{PROGRAMS} programs serve", 600)
        await _read_ports(soak)
        for key in soak.programs.items:
            tasks.append(asyncio.create_task(_traffic(soak, gateways, key)))
        tasks += [asyncio.create_task(each) for each in (_faults(soak, gateways), _operator(soak), _release(soak))]
        began = time.monotonic()
        while time.monotonic() - began < 60 * minutes:
            await asyncio.sleep(SAMPLE_SECONDS)
            await _sample(soak, gateways, time.monotonic() - began)
            dead = [task for task in tasks if task.done()]
            if dead:
                dead[0].result()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(gateway.end() for gateway in gateways.pods.values()))
        await runner.cleanup()
    await kube.close()
    return _problems(soak)


async def _make(soak: Soak, uri: str) -> None:
    for number in range(NAMESPACES):
        namespace = f"team-{number}"
        await soak.kube.request("POST", "/api/v1/namespaces", None, {"metadata": {"name": namespace}})
        await make_lm_secret(soak.kube, namespace)
    for number in range(PROGRAMS):
        namespace, name = f"team-{number % NAMESPACES}", f"p{number}"
        policy = rollout(name, STEPS, analysis=ANALYSIS)
        await soak.kube.request("POST", path("DSPyRollout", namespace), None, policy)
        await soak.kube.request(
            "POST", path("DSPyProgram", namespace), None, program(name, uri, model_of(Kind.GOOD, 0))
        )


def _start_operator(soak: Soak) -> None:
    soak.operator = soak.plane.start("operator", [sys.executable, "-m", "dspy_operator"], soak.variables)


def _serving(soak: Soak) -> list[str]:
    return [key for key, item in soak.programs.items.items() if _condition(item, "Available") == "True"]


def _condition(item: Object, kind: str) -> str:
    conditions = item.get("status", {}).get("conditions", ())
    return next((str(each["status"]) for each in conditions if each["type"] == kind), "")


async def _read_ports(soak: Soak) -> None:
    for number in range(NAMESPACES):
        found = await soak.kube.request("GET", path("ConfigMap", f"team-{number}", GATEWAY_NAME))
        table = load_ports(found["data"][CONTENT_KEY])
        soak.ports |= {uid: port.port for uid, port in table.ports.items()}


async def _traffic(soak: Soak, gateways: Gateways, key: str) -> None:
    """Requests at random moments to a gateway pod of the program's namespace."""
    namespace = key.partition("/")[0]
    port = soak.ports[soak.programs.items[key]["metadata"]["uid"]]
    asking: set[asyncio.Task[None]] = set()
    while True:
        await asyncio.sleep(soak.chance.expovariate(MOVING_RATE if key in soak.releases else QUIET_RATE))
        chosen = gateways.of(namespace)
        if chosen:
            task = asyncio.create_task(soak.clients.ask(f"http://{soak.chance.choice(chosen).address}:{port}/predict"))
            asking.add(task)
            task.add_done_callback(asking.discard)


async def _faults(soak: Soak, gateways: Gateways) -> None:
    """Kills an agent or an Envoy, or deletes a pod of a gateway or of a program."""
    while True:
        await asyncio.sleep(soak.chance.expovariate(1 / FAULT_SECONDS))
        fault = soak.chance.choices(("process", "gateway pod", "pod"), (0.3, 0.1, 0.6))[0]
        gateway = soak.chance.choice(list(gateways.pods.values()))
        if fault == "process":
            gateway.kill(soak.chance)
        else:
            label = f"app.kubernetes.io/name={GATEWAY_NAME}"
            selector = (
                label
                if fault == "gateway pod"
                else f"app.kubernetes.io/managed-by=dspy-operator,{label.replace('=', '!=')}"
            )
            pods = (await soak.kube.request("GET", path("Pod", gateway.namespace), {"labelSelector": selector}))[
                "items"
            ]
            chosen = soak.chance.choice(pods)["metadata"]["name"]
            with contextlib.suppress(NotFoundException):
                await soak.kube.request("DELETE", path("Pod", gateway.namespace, chosen), {"gracePeriodSeconds": 0})
        soak.faults[fault] += 1


async def _operator(soak: Soak) -> None:
    """Restarts the operator once a minute: killed, or asked to end, in turns."""
    number = signal.SIGTERM
    while True:
        await asyncio.sleep(OPERATOR_SECONDS)
        assert soak.operator is not None
        assert soak.operator.poll() is None, "the operator ended by itself"
        soak.operator.send_signal(number)
        await asyncio.to_thread(soak.operator.wait)
        number = signal.SIGKILL if number == signal.SIGTERM else signal.SIGTERM
        _start_operator(soak)
        soak.faults["operator"] += 1


async def _release(soak: Soak) -> None:
    """Keeps so many releases in motion, and notes how each ends."""
    while True:
        await asyncio.sleep(0.5)
        for key, release in list(soak.releases.items()):
            _note(soak, key, release)
        resting = [key for key in soak.programs.items if key not in soak.releases]
        for key in soak.chance.sample(resting, max(RELEASES - len(soak.releases), 0)):
            kind = soak.chance.choices(list(KINDS), list(KINDS.values()))[0]
            soak.number += 1
            namespace, name = key.split("/")
            model = model_of(kind, soak.number)
            spec = {"spec": {"lm": {"model": model}}}
            await soak.kube.request("PATCH", path("DSPyProgram", namespace, name), {}, spec, MERGE)
            soak.releases[key] = Release(key, kind, model, time.monotonic())


def _note(soak: Soak, key: str, release: Release) -> None:
    """Takes a release's end from the program's history: that of the revision which the spec asks for."""
    item = soak.programs.items[key]
    status = item.get("status", {})
    wanted = status.get("wanted", {})
    if wanted.get("lm") != release.model:
        return
    release.revision = wanted.get("revision", "")
    end = next((each for each in reversed(status.get("history", ())) if each["revision"] == release.revision), None)
    if end is None:
        return
    refused = status.get("release", {}).get("refused", ())
    release.outcome, release.seconds = end["outcome"], time.monotonic() - release.began
    release.reason = next((each["reason"] for each in refused if each["revision"] == release.revision), "")
    soak.ended.append(soak.releases.pop(key))


async def _sample(soak: Soak, gateways: Gateways, seconds: float) -> None:
    sample: dict[str, float] = {}
    for name, place in OBJECTS.items():
        found = await soak.kube.request("GET", place, {"limit": 1})
        sample[name] = len(found["items"]) + found["metadata"].get("remainingItemCount", 0)
    if soak.operator is not None and soak.operator.poll() is None:
        sample |= {f"operator {name}": value for name, value in _process(soak.operator.pid).items()}
    for kind in ("agent", "envoy"):
        found_of = [_process(each.processes[kind].pid) for each in gateways.pods.values() if kind in each.processes]
        for name in ("MiB", "descriptors"):
            values = [each[name] for each in found_of if name in each]
            sample[f"{kind} {name}"] = median(values) if values else 0.0
    counts = await asyncio.gather(*(each.statistics() for each in gateways.pods.values()), return_exceptions=True)
    told = [count for count in counts if isinstance(count, int)]
    sample["statistics"] = median(told) if told else 0.0
    soak.samples.append(sample)
    outcomes = Counter(f"{each.kind} {each.outcome}" for each in soak.ended)
    click.echo(f"{seconds:5.0f} s  {dict(outcomes)}  faults {dict(soak.faults)}  answers {dict(soak.clients.answers)}")
    click.echo("         " + ", ".join(f"{name} {value:.0f}" for name, value in sample.items()))
    for release in soak.releases.values():
        if time.monotonic() - release.began > LATEST_SECONDS:
            rollout = soak.programs.items[release.program].get("status", {})
            words = [each["message"] for each in rollout.get("conditions", ()) if each["type"] == "Current"]
            click.echo(
                f"         {release.program} ({release.kind}) for {time.monotonic() - release.began:.0f} s: {words}"
            )


def _process(pid: int) -> dict[str, float]:
    """Memory and open files of a process; nothing of one that has ended."""
    try:
        return {"MiB": resident_mib(pid), "descriptors": len(os.listdir(f"/proc/{pid}/fd"))}
    except (OSError, StopIteration):
        return {}


def _problems(soak: Soak) -> list[str]:
    """What went wrong, in words."""
    bad = [each for each in soak.ended if each.kind is not Kind.GOOD]
    good = [each for each in soak.ended if each.kind is Kind.GOOD]
    problems = [f"{each} was promoted" for each in bad if each.outcome == "Promoted"]
    back = [each for each in good if each.outcome != "Promoted"]
    late = [each for each in soak.releases.values() if time.monotonic() - each.began > LATEST_SECONDS]
    problems += [f"{each} has not ended after {LATEST_SECONDS:.0f} s" for each in late]
    problems += [
        f"{each} took longer than {LATEST_SECONDS:.0f} s" for each in soak.ended if each.seconds > LATEST_SECONDS
    ]
    problems += [
        f"{each} went back for a reason that is no statistic" for each in back if each.reason not in STATISTICS
    ]
    allowed = ALPHA * len(good) + NormalDist().inv_cdf(0.999) * (ALPHA * len(good)) ** 0.5 + 1
    if len(back) > allowed:
        problems.append(f"{len(back)} of {len(good)} good candidates went back, {allowed:.1f} are allowed")
    problems += _growth(soak.samples)
    if soak.samples[-1]["controllerrevisions"] > MOST_REVISIONS * PROGRAMS:
        problems.append("there are more ControllerRevisions than are kept")
    for kind in Kind:
        seconds = [each.seconds for each in soak.ended if each.kind is kind]
        if not seconds:
            problems.append(f"no release of the kind {kind} ended")
        else:
            click.echo(f"{kind}: {len(seconds)} releases, median {median(seconds):.0f} s, longest {max(seconds):.0f} s")
    return problems


def _growth(samples: list[dict[str, float]]) -> list[str]:
    """What was larger in the last third than in the one before."""
    third = len(samples) // 3
    if third == 0:
        return ["too few samples to see what grows: more minutes"]
    problems = []
    # Revisions and their files grow to what is kept of a program, and no further.
    for name in sorted({name for sample in samples for name in sample} - {"controllerrevisions", "secrets"}):
        middle = median([each[name] for each in samples[third : 2 * third] if name in each] or [0.0])
        last = median([each[name] for each in samples[2 * third :] if name in each] or [0.0])
        if last > MOST_GROWTH * middle + 5:
            problems.append(f"{name} grew from {middle:.0f} to {last:.0f}")
    return problems


if __name__ == "__main__":
    main()
