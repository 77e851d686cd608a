"""The cluster of the current kube context: used as it is, never created or removed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from dev.cluster.interface import ClusterError


class CurrentCluster:
    """Whatever `kubectl` reaches now; implements `interface.Cluster`. Its nodes must be able to pull the images."""

    def prepare(self) -> None:
        """Nothing: the cluster is there."""

    def create(self) -> None:
        """Checks that the current context answers."""
        if (
            shutil.which("kubectl") is None
            or subprocess.run(["kubectl", "version"], capture_output=True).returncode != 0
        ):
            raise ClusterError("the current kube context does not answer: check `kubectl version`")

    def load(self, images: Sequence[str]) -> None:
        """Nothing can be loaded onto a cluster that is not ours; says which images its nodes must be able to pull."""
        print(f"The nodes of the current context must be able to pull: {' '.join(images)}", flush=True)

    def kubeconfig(self) -> Path:
        """The file that kubectl itself reads."""
        return Path(os.environ.get("KUBECONFIG", Path.home() / ".kube" / "config"))

    def kubectl(self) -> list[str]:
        """The machine's kubectl."""
        return ["kubectl"]

    def delete(self) -> None:
        """Leaves the cluster alone."""
