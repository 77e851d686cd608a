"""The one interface behind which kind, the native node and the current kube context are the same thing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

CACHE = Path(os.environ.get("DSPY_OPERATOR_CACHE", Path.home() / ".cache" / "dspy-operator"))
REPOSITORY = Path(__file__).resolve().parents[2]


class ClusterError(Exception):
    """A cluster could not be made, reached or removed; the message says what to do."""


class Cluster(Protocol):
    """A cluster by name. `create` and `delete` may be called twice."""

    def prepare(self) -> None:
        """Installs and builds what a cluster is made of, where the cache has it not. May take many minutes."""

    def create(self) -> None:
        """Makes the cluster, or finds it running. Returns when its node is Ready."""

    def load(self, images: Sequence[str]) -> None:
        """Brings local images (by reference) onto the cluster's node."""

    def kubeconfig(self) -> Path:
        """The kubeconfig file with which kubectl reaches the cluster as an administrator."""

    def kubectl(self) -> list[str]:
        """The command line prefix of a kubectl that talks to this cluster."""

    def delete(self) -> None:
        """Removes the cluster and everything it started."""
