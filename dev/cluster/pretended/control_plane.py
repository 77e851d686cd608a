"""A control plane without nodes: etcd, API server, controllers and scheduler, and kwok for nodes and pods."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from dev.cluster.deploy import SYSTEM
from dev.cluster.interface import CACHE, REPOSITORY
from dev.cluster.node import build, configuration
from dev.cluster.node.layout import Layout
from dev.cluster.node.supervise import commands

KWOK = "v0.8.0"
STAGES = (
    "node/fast/node-initialize.yaml",
    "node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
    "pod/fast/pod-ready.yaml",
    "pod/fast/pod-delete.yaml",
)
NODES, PODS_A_NODE = 24, 1_000
PODS = "10.128.0.0/12"
SERVICES = "10.96.0.0/12"
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
EAGER = ["--kube-api-qps=2000", "--kube-api-burst=4000"]
FLAGS: Mapping[str, Sequence[str]] = {
    "kube-apiserver": [
        f"--service-cluster-ip-range={SERVICES}",
        "--max-requests-inflight=2000",
        "--max-mutating-requests-inflight=2000",
    ],
    "kube-controller-manager": [
        *EAGER,
        "--concurrent-deployment-syncs=20",
        "--concurrent-replicaset-syncs=20",
        "--concurrent-service-endpoint-syncs=10",
        "--controllers=*,-nodeipam",
    ],
    "kube-scheduler": EAGER,
}


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """A running control plane."""

    folder: Path
    layout: Layout
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Runs kubectl as an administrator and returns what it prints."""
        command = [str(build.binary()), "kubectl", "--kubeconfig", str(self.layout.kubeconfig), *arguments]
        return subprocess.run(command, input=stdin, check=True, capture_output=True, text=True).stdout

    def start(
        self, name: str, command: Sequence[str], variables: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Starts a process that logs to the folder and ends with the control plane."""
        environment = {**os.environ, "KUBECONFIG": str(self.layout.kubeconfig), **(variables or {})}
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=REPOSITORY, env=environment)
        self.processes.append(process)
        return process

    def end(self) -> None:
        """Ends every process."""
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            process.wait()


@contextlib.contextmanager
def running() -> Iterator[ControlPlane]:
    """A control plane with its nodes, in this process' network namespace."""
    with tempfile.TemporaryDirectory(prefix="dspy-pretended-") as name:
        folder = Path(name)
        layout = Layout("pretended", 0, folder)
        configuration.write(layout)
        for command in (
            "link set lo up",
            f"address add {layout.node_address}/32 dev lo",
            f"route add local {PODS} dev lo",
        ):
            subprocess.run(["ip", *command.split()], check=True)
        plane = ControlPlane(folder, layout)
        try:
            audit = folder / "audit.yaml"
            audit.write_text(json.dumps(_AUDIT))
            node = str(build.binary())
            argv = commands(layout, node)
            record = [f"--audit-policy-file={audit}", f"--audit-log-path={folder}/audit.log"]
            recorded = [*record, "--audit-log-maxsize=10000"]
            for component in COMPONENTS:
                flags = [*FLAGS.get(component, ()), *(recorded if component == "kube-apiserver" else ())]
                plane.start(component, [*argv[component], *flags])
                if component == "kube-apiserver":
                    _wait_until_ready(plane)
            stages = kwok().with_name("stages.yaml")
            flags = [f"--kubeconfig={layout.kubeconfig}", f"--config={stages}", "--manage-all-nodes=true"]
            plane.start("kwok", [str(kwok()), *flags, "--node-lease-duration-seconds=40"])
            plane.kubectl("create", "-f", "-", stdin=yaml.safe_dump_all(_node(number) for number in range(NODES)))
            yield plane
        finally:
            plane.end()


_AUDIT = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "users": [f"system:serviceaccount:{SYSTEM}:dspy-operator"]}, {"level": "None"}],
}


def _node(number: int) -> dict[str, object]:
    capacity = {"cpu": "1000", "memory": "4000Gi", "pods": str(PODS_A_NODE)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"node-{number}", "annotations": {"kwok.x-k8s.io/node": "fake"}},
        "spec": {"podCIDR": f"10.128.{number * 4}.0/22", "podCIDRs": [f"10.128.{number * 4}.0/22"]},
        "status": {"allocatable": capacity, "capacity": capacity},
    }


def kwok() -> Path:
    """kwok's path; built from its module when the cache has none."""
    target = CACHE / "kwok" / KWOK / "kwok"
    stages = target.parent / "stages.yaml"
    if not stages.exists():
        print(f"Building kwok {KWOK} (once) ...", flush=True)
        environment = {**os.environ, "GOBIN": str(target.parent), "CGO_ENABLED": "0"}
        command = [build.go(), "install", f"sigs.k8s.io/kwok/cmd/kwok@{KWOK}"]
        subprocess.run(command, env=environment, check=True, stdout=sys.stderr)
        download = [build.go(), "mod", "download", "-json", f"sigs.k8s.io/kwok@{KWOK}"]
        module = json.loads(subprocess.run(download, check=True, capture_output=True, text=True).stdout)
        texts = [(Path(module["Dir"]) / "kustomize/stage" / stage).read_text() for stage in STAGES]
        stages.write_text("\n---\n".join(texts))
    return target


def _wait_until_ready(plane: ControlPlane) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            plane.kubectl("get", "--raw", "/readyz")
            return
        except subprocess.CalledProcessError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
