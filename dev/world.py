"""What the demo, the end-to-end tests and the benches do to a cluster, in words: log, apply, send traffic, wait."""

from __future__ import annotations

import json
import math
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import yaml

from dev.cluster.deploy import SYSTEM, kubectl
from dev.cluster.interface import REPOSITORY, Cluster, ClusterError

LM_URL = f"http://lm.{SYSTEM}.svc:8000/v1"
LOG_VERSIONS = REPOSITORY / "dev" / "demo" / "log_versions.py"
WAIT_SECONDS = 90.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One answered request, as the client saw it."""

    asked: float
    answered: float
    status: int
    revision: str = ""
    outcome: str = ""
    serial: int = 0
    gateway: str = ""
    user: str = ""
    streamed: bool = False
    error: str = ""

    @property
    def lost(self) -> bool:
        """True when the request reached no program: a connection error, or an answer that carries no outcome."""
        return self.status != 200 and self.outcome == ""


@dataclass
class Traffic:
    """Traffic that flows, and what came back so far."""

    answers: list[Answer] = field(default_factory=list)

    def by_revision(self) -> dict[str, int]:
        """Answers by revision."""
        found: dict[str, int] = {}
        for answer in list(self.answers):
            found[answer.revision] = found.get(answer.revision, 0) + 1
        return found

    def sides(self, since: float, until: float = math.inf) -> dict[str, set[str]]:
        """By user, the revisions that answered what was asked since then."""
        found: dict[str, set[str]] = {}
        for answer in [answer for answer in list(self.answers) if since <= answer.asked < until]:
            if answer.revision:
                found.setdefault(answer.user, set()).add(answer.revision)
        return found

    def lost(self) -> list[Answer]:
        """The requests that reached no program."""
        return [answer for answer in list(self.answers) if answer.lost]

    def failed(self) -> list[Answer]:
        """The requests that were not answered 200."""
        return [answer for answer in list(self.answers) if answer.status != 200]


class World:
    """One namespace of a cluster on which the operator runs."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """kubectl in the namespace."""
        return kubectl(self.cluster, "--namespace", self.namespace, *arguments, stdin=stdin)

    def begin(self, secret: bool = True) -> None:
        """Makes the namespace, and the Secret with the provider's key."""
        kubectl(self.cluster, "create", "namespace", self.namespace)
        kubectl(self.cluster, "label", "namespace", self.namespace, "pod-security.kubernetes.io/enforce=restricted")
        if secret:
            self.make_secret()

    def make_secret(self) -> None:
        """Makes the Secret with the provider's key."""
        self.kubectl("create", "secret", "generic", "lm", "--from-literal=api-key=sk-not-a-real-key")

    def end(self) -> None:
        """Removes the namespace without waiting for it."""
        kubectl(self.cluster, "delete", "namespace", self.namespace, "--wait=false", "--ignore-not-found")

    def log(self, *wanted: Mapping[str, str]) -> list[str]:
        """Logs versions to the registry (see log_versions.py); returns their numbers."""
        words = kubectl(
            self.cluster,
            "exec",
            "-i",
            "-n",
            SYSTEM,
            "deploy/mlflow",
            "--",
            "python",
            "-",
            json.dumps(wanted),
            stdin=LOG_VERSIONS.read_text(),
        )
        return list(json.loads(words.rpartition("VERSIONS ")[2]))

    @contextmanager
    def without_registry(self) -> Iterator[None]:
        """While in it, nobody reaches the registry."""

        def lead(to: str) -> None:
            patch = json.dumps({"spec": {"selector": {"app.kubernetes.io/name": to}}})
            kubectl(self.cluster, "patch", "service", "mlflow", "-n", SYSTEM, "--type=merge", "-p", patch)

        lead("nobody")
        try:
            yield
        finally:
            lead("mlflow")

    def set_lm(self, **settings: Any) -> dict[str, Any]:
        """Changes the stand-in provider; returns its settings and what it has seen."""
        command = ("python", "-m", "dev.standin", "set", json.dumps(settings))
        return dict(json.loads(kubectl(self.cluster, "exec", "-n", SYSTEM, "deploy/client", "--", *command)))

    def apply(self, *manifests: Mapping[str, Any]) -> None:
        """Applies manifests."""
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all([dict(manifest) for manifest in manifests]))

    def set_model(self, name: str, uri: str) -> None:
        """Asks for another version."""
        self.kubectl("patch", "dspyprogram", name, "--type=merge", "-p", json.dumps({"spec": {"model": {"uri": uri}}}))

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """An object. Raises ClusterError when it is not there."""
        return dict(json.loads(self.kubectl("get", kind, name, "-o", "json")))

    def names(self, kind: str, selector: str = "") -> list[str]:
        """Names of the objects of a kind."""
        words = self.kubectl(
            "get", kind, "-o", "jsonpath={.items[*].metadata.name}", *(["-l", selector] if selector else [])
        )
        return words.split()

    def condition(self, name: str, kind: str) -> tuple[str, str, str]:
        """A condition of a program: status, reason, message."""
        for condition in self.get("dspyprogram", name).get("status", {}).get("conditions", ()):
            if condition["type"] == kind:
                return condition["status"], condition["reason"], condition["message"]
        return "", "", ""

    def wait_condition(
        self, name: str, kind: str, status: str, reason: str | None = None, seconds: float = WAIT_SECONDS
    ) -> str:
        """Waits for a condition of a program; returns its message."""
        self.wait(
            lambda: self.condition(name, kind)[: 2 if reason else 1] == ((status, reason) if reason else (status,)),
            f"{name} {kind}={status} {reason or ''}",
            seconds,
        )
        return self.condition(name, kind)[2]

    def wanted(self, name: str) -> str:
        """The revision that a program's spec asks for."""
        return str(self.get("dspyprogram", name)["status"]["wanted"]["revision"])

    def rollout(self, name: str) -> dict[str, Any]:
        """The status of a rollout."""
        return dict(self.get("dspyrollout", name).get("status", {}))

    def wait(
        self, condition: Callable[[], bool], words: str, seconds: float = WAIT_SECONDS, *, pause: float = 0.1
    ) -> None:
        """Waits for a condition, with a deadline; then fails with what kubectl shows. `pause` is for those who must
        not burden the machine by asking: kubectl is a tenth of a second of a core."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                shown = self.kubectl("get", "dspy,pods,events", "-o", "wide")
                raise AssertionError(f"not within {seconds:.0f} s: {words}\n{shown}")
            time.sleep(pause)

    @contextmanager
    def traffic(
        self, name: str, rate: float = 20.0, users: int = 0, streams: int = 0, questions: int = 0
    ) -> Iterator[Traffic]:
        """Steady traffic to a program while the block runs, of so many users in turn, and beside it so many open
        streams. So many questions are asked again and again; with 0 none is asked twice."""
        url = f"http://{name}.{self.namespace}.svc/predict"
        command = [
            "exec",
            "-i",
            "-n",
            SYSTEM,
            "deploy/client",
            "--",
            "python",
            "-m",
            "dev.standin",
            "traffic",
            url,
            "--rate",
            str(rate),
            "--users",
            str(users),
            "--streams",
            str(streams),
            "--questions",
            str(questions),
        ]
        process = subprocess.Popen(
            [*self.cluster.kubectl(), *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        traffic = Traffic()
        reader = threading.Thread(target=_read, args=(process, traffic), daemon=True)
        reader.start()
        try:
            self.wait(lambda: len(traffic.answers) > 0, "traffic flows", 30)
            yield traffic
        finally:
            assert process.stdin is not None
            process.stdin.close()
            reader.join(40)
            process.wait(10)
            assert process.stdout is not None
            process.stdout.close()


def program(name: str, uri: str, **spec: Any) -> dict[str, Any]:
    """A DSPyProgram that calls the stand-in provider."""
    lm = {"model": "openai/standin", "apiBase": LM_URL, "credentials": {"apiKey": {"name": "lm", "key": "api-key"}}}
    return {
        "apiVersion": "dspy.dev/v1alpha1",
        "kind": "DSPyProgram",
        "metadata": {"name": name},
        "spec": {"model": {"uri": uri}, "lm": lm, **spec},
    }


def rollout(name: str, steps: Sequence[Mapping[str, Any]], **spec: Any) -> dict[str, Any]:
    """A DSPyRollout of the program of the same name."""
    strategy = {"type": "Canary", "canary": {"steps": [dict(step) for step in steps]}}
    return {
        "apiVersion": "dspy.dev/v1alpha1",
        "kind": "DSPyRollout",
        "metadata": {"name": name},
        "spec": {"programRef": {"name": name}, "strategy": strategy, **spec},
    }


def _read(process: subprocess.Popen[str], traffic: Traffic) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        try:
            traffic.answers.append(Answer(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise ClusterError(f"the traffic client said: {line!r}") from error
