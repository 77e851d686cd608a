"""`make demo`: a cluster, a program, a good release and a bad one, shown while they happen, and a summary with
figures."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table

from dev.cluster.choose import cluster as choose
from dev.cluster.deploy import deploy, kubectl
from dev.cluster.interface import Cluster, ClusterError
from dev.demo.story import NAME, NAMESPACE, POLICY, RATE, the_program
from dev.world import Answer, Traffic, World

CLUSTER = "dspy"
LOOK_SECONDS = 0.5
RELEASE_SECONDS = 120.0


@dataclass
class Stage:
    """What is shown: a headline, the world, the traffic, and which version each revision is."""

    console: Console
    world: World
    traffic: Traffic
    headline: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    shown: str = ""

    def follow(self, headline: str, done: Callable[[], bool]) -> None:
        """Shows the world until something has come true."""
        self.headline = headline
        deadline = time.monotonic() + RELEASE_SECONDS
        with Live(console=self.console, auto_refresh=False) if self.console.is_terminal else nullcontext() as live:
            finished = False
            while not finished:
                finished = done()
                self.revision_of("wanted")
                if live is not None:
                    live.update(self.picture(), refresh=True)
                else:
                    self.print_when_changed()
                if time.monotonic() > deadline:
                    raise ClusterError(
                        f"{headline}: not within {RELEASE_SECONDS:.0f} s; see kubectl get dspy,events -n {NAMESPACE}"
                    )
                time.sleep(LOOK_SECONDS)

    def picture(self) -> RenderableType:
        """Everything at one glance."""
        rollouts = self.world.kubectl("get", "rollouts", "-o", "wide").rstrip()
        return Panel(
            Group(f"$ kubectl get rollouts -o wide\n{rollouts}\n", self.table(), self.words()), title=self.headline
        )

    def print_when_changed(self) -> None:
        """Without a terminal: the rollout's line whenever it says something new."""
        line = self.world.kubectl("get", "rollouts", "--no-headers", "-o", "wide").strip()
        told = " ".join(word for word in line.split() if not word.rstrip("smh").isdigit())
        if told != self.shown:
            self.shown = told
            self.console.print(line, highlight=False, soft_wrap=True)

    def table(self) -> Table:
        """Requests and errors by revision, as clients see them."""
        table = Table("Revision", "Version", "Requests", "Failed", "Last 5 s", box=None, padding=(0, 2))
        now = time.time()
        answers = list(self.traffic.answers)
        for revision in dict.fromkeys(answer.revision for answer in answers):
            own = [answer for answer in answers if answer.revision == revision]
            failed = sum(answer.status != 200 for answer in own)
            recent = sum(now - answer.answered < 5 for answer in own)
            table.add_row(
                revision or "(none)", self.versions.get(revision, ""), str(len(own)), str(failed), str(recent)
            )
        return table

    def words(self) -> str:
        """What the operator said last."""
        told = self.world.kubectl(
            "get",
            "events",
            "--field-selector",
            "source=dspy-operator",
            "--sort-by=.lastTimestamp",
            "-o",
            "jsonpath={range .items[*]}{.reason}: {.message}{'\\n'}{end}",
        )
        return "\nThe operator said:\n" + "\n".join(f"  {line}" for line in told.strip().splitlines()[-6:])

    def revision_of(self, which: str) -> str:
        """The name of the stable or wanted revision."""
        status = self.world.get("dspyprogram", NAME)["status"].get(which, {})
        revision = str(status.get("revision", ""))
        self.versions[revision] = str(status.get("version", ""))
        return revision


def main() -> None:
    """Runs the demo from beginning to end and leaves the cluster."""
    console = Console(soft_wrap=not sys.stdout.isatty(), highlight=False)
    started = time.monotonic()
    try:
        cluster = choose(CLUSTER)
        console.rule("A cluster with the operator, an MLflow server and a stand-in LM provider")
        cluster.create()
        deploy(cluster)
        console.print(f"Ready after {time.monotonic() - started:.0f} s")
        play(console, cluster)
        console.print(f"\nThe demo took {time.monotonic() - started:.0f} s.")
    except ClusterError as error:
        sys.exit(f"Error: {error}")


def play(console: Console, cluster: Cluster) -> None:
    """A good release and a bad one on a cluster with the operator, and the figures of both."""
    world = _clean_world(cluster)
    console.rule("Three versions of a program go to the registry; the first one serves")
    good, better, bad = world.log(*({"name": NAME, "kind": kind} for kind in ("good", "better", "bad")))
    applied = time.monotonic()
    world.apply(POLICY, the_program(good))
    world.wait_condition(NAME, "Available", "True", "Serving")
    console.print(
        f"v{good} serves {time.monotonic() - applied:.1f} s after kubectl apply: POST http://{NAME}.{NAMESPACE}.svc/predict"
    )
    with world.traffic(NAME, RATE) as traffic:
        stage = Stage(console, world, traffic)
        stage.revision_of("stable")
        console.rule(f"v{better} is better: released step by step, then promoted")
        world.set_model(NAME, f"models:/{NAME}/{better}")
        stage.follow(f"Releasing v{better}", lambda: stage.revision_of("stable") == stage.revision_of("wanted"))
        console.rule(f"v{bad} is bad: its prompt asks for prose, and the answers no longer parse")
        world.set_model(NAME, f"models:/{NAME}/{bad}")
        stage.follow(f"Releasing v{bad}", lambda: world.condition(NAME, "Current")[1] == "RolledBack")
        world.wait(lambda: stage.revision_of("wanted") not in world.names("deployments"), "the bad revision is gone")
    if not console.is_terminal:
        console.print(stage.table(), stage.words(), sep="\n")
    _summarise(console, traffic, stage)


def _clean_world(cluster: Cluster) -> World:
    """The demo's namespace, new: a second run begins from the beginning."""
    world = World(cluster, NAMESPACE)
    if kubectl(cluster, "get", "namespace", NAMESPACE, "--ignore-not-found"):
        world.kubectl("delete", "dspyprograms,dspyrollouts,events", "--all")
        world.wait(lambda: not world.names("pods", f"dspy.dev/program={NAME}"), "the last demo's program is gone")
    else:
        world.begin()
    return world


def _summarise(console: Console, traffic: Traffic, stage: Stage) -> None:
    bad = stage.revision_of("wanted")
    failed = [answer for answer in traffic.failed() if answer.revision == bad]
    console.rule("Summary")
    summary = Table(box=None, show_header=False, padding=(0, 2))
    summary.add_row("Requests sent", str(len(traffic.answers)))
    summary.add_row("Failed, all of them at the bad version", f"{len(failed)} of {len(traffic.failed())}")
    summary.add_row(
        "First bad answer to the last request at the bad version", f"{_seconds_of(traffic.answers, bad):.2f} s"
    )
    summary.add_row("Lost to a switch of traffic", str(len(traffic.lost())))
    console.print(summary)
    console.print("\nThe cluster stays. Look around:")
    prefix = " ".join(stage.world.cluster.kubectl())
    console.print(f"  alias k='{prefix} -n {NAMESPACE}'")
    for command in ("k get dspy", f"k describe dspyprogram {NAME}", "k get events --sort-by=.lastTimestamp"):
        console.print(f"  {command}")
    console.print("Remove it with: make clean")


def _seconds_of(answers: list[Answer], bad: str) -> float:
    own = [answer for answer in answers if answer.revision == bad]
    failures = [answer.answered for answer in own if answer.status != 200]
    return max(0.0, max(answer.asked for answer in own) - min(failures)) if failures else 0.0


if __name__ == "__main__":
    main()
