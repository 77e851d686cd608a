"""A kind cluster, where Docker answers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from dev.cluster import kind_tools
from dev.cluster.interface import CACHE, REPOSITORY, ClusterError

READY_SECONDS = 120


class KindCluster:
    """A kind cluster by name; implements `interface.Cluster`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def prepare(self) -> None:
        """Finds or builds kind and kubectl; kind brings its own node."""
        kind_tools.kind()
        kind_tools.kubectl()

    def create(self) -> None:
        """Creates the cluster from kind-config.yaml unless it is there and whole. KIND_IMAGE names another node
        image."""
        self.prepare()
        if self.name in self._kind("get", "clusters").split():
            if self.kubeconfig().exists() and self._ready():
                return
            print(f"The cluster {self.name} is there but not whole: making it anew ...", flush=True)
            self.delete()
        # The kubeconfig gets its name when the cluster is whole: a creation that was interrupted does not count.
        partial = self.kubeconfig().with_suffix(".partial")
        config = str(REPOSITORY / "kind-config.yaml")
        image = ["--image", os.environ["KIND_IMAGE"]] if os.environ.get("KIND_IMAGE") else []
        print(f"Creating the kind cluster {self.name} ...", flush=True)
        self._kind(
            "create",
            "cluster",
            "--quiet",
            "--name",
            self.name,
            "--config",
            config,
            "--kubeconfig",
            str(partial),
            *image,
        )
        partial.rename(self.kubeconfig())
        if not self._ready():
            raise ClusterError(
                f"the cluster {self.name} was not ready within {READY_SECONDS} s; "
                f"see {' '.join(self.kubectl())} describe node"
            )

    def load(self, images: Sequence[str]) -> None:
        """Loads images from Docker onto the cluster's nodes, one by one: of several, kind loads all when one is
        missing."""
        for image in images:
            self._kind("load", "docker-image", "--name", self.name, image)

    def kubeconfig(self) -> Path:
        """The cluster's own kubeconfig file; the user's is left alone."""
        path = CACHE / "clusters" / f"{self.name}.kubeconfig"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def kubectl(self) -> list[str]:
        """kubectl with the cluster's kubeconfig."""
        return [kind_tools.kubectl(), "--kubeconfig", str(self.kubeconfig())]

    def delete(self) -> None:
        """Deletes the cluster and its kubeconfig."""
        self._kind("delete", "cluster", "--quiet", "--name", self.name, "--kubeconfig", str(self.kubeconfig()))
        self.kubeconfig().unlink(missing_ok=True)

    def _ready(self) -> bool:
        """Starts nodes that stand still, and waits until the API server and all nodes are ready: after a restart of
        Docker that takes a while."""
        nodes = self._kind("get", "nodes", "--name", self.name).split()
        subprocess.run(["docker", "start", *nodes], capture_output=True)
        waiting = Retrying(
            stop=stop_after_delay(READY_SECONDS), wait=wait_fixed(0.5), retry=retry_if_result(lambda ready: not ready)
        )
        try:
            return waiting(self._answers)
        except RetryError:
            return False

    def _answers(self) -> bool:
        asked = (
            ["get", "--raw", "/readyz", "--request-timeout=5s"],
            ["wait", "node", "--all", "--for=condition=Ready", "--timeout=5s"],
        )
        return all(subprocess.run([*self.kubectl(), *each], capture_output=True).returncode == 0 for each in asked)

    def _kind(self, *arguments: str) -> str:
        result = subprocess.run([kind_tools.kind(), *arguments], stdout=subprocess.PIPE, text=True)
        if result.returncode != 0:
            raise ClusterError(f"kind {' '.join(arguments[:2])} failed; see its words above")
        return result.stdout
