"""A kind cluster, where Docker answers."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from dev.cluster.interface import CACHE, REPOSITORY, ClusterError


class KindCluster:
    """A kind cluster by name; implements `interface.Cluster`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def prepare(self) -> None:
        """Nothing: kind brings its own node."""

    def create(self) -> None:
        """Creates the cluster from kind-config.yaml unless it is there."""
        for tool in ("kind", "kubectl"):
            if shutil.which(tool) is None:
                raise ClusterError(f"Docker answers but {tool} is not installed: install {tool} and run this again")
        if self.name in self._kind("get", "clusters").split():
            self._kind("export", "kubeconfig", "--name", self.name, "--kubeconfig", str(self.kubeconfig()))
            return
        config = str(REPOSITORY / "kind-config.yaml")
        self._kind(
            "create",
            "cluster",
            "--name",
            self.name,
            "--config",
            config,
            "--kubeconfig",
            str(self.kubeconfig()),
            "--wait",
            "120s",
        )

    def load(self, images: Sequence[str]) -> None:
        """Loads images from Docker onto the cluster's nodes."""
        self._kind("load", "docker-image", "--name", self.name, *images)

    def kubeconfig(self) -> Path:
        """The cluster's own kubeconfig file; the user's is left alone."""
        path = CACHE / "clusters" / f"{self.name}.kubeconfig"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def kubectl(self) -> list[str]:
        """The machine's kubectl with the cluster's kubeconfig."""
        return ["kubectl", "--kubeconfig", str(self.kubeconfig())]

    def delete(self) -> None:
        """Deletes the cluster and its kubeconfig."""
        self._kind("delete", "cluster", "--name", self.name)
        self.kubeconfig().unlink(missing_ok=True)

    def _kind(self, *arguments: str) -> str:
        result = subprocess.run(["kind", *arguments], stdout=subprocess.PIPE, text=True)
        if result.returncode != 0:
            raise ClusterError(f"kind {' '.join(arguments[:2])} failed; see its words above")
        return result.stdout
