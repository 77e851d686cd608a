"""Chooses the cluster for this machine: CLUSTER=kind|native|current, else kind where Docker answers, else the native
node."""

from __future__ import annotations

import os

from dev.cluster.current import CurrentCluster
from dev.cluster.interface import Cluster, ClusterError
from dev.cluster.kind import KindCluster
from dev.cluster.native import NativeCluster
from dev.images.builder import docker_answers


def cluster(name: str) -> Cluster:
    """The cluster of that name, not created yet."""
    kind = os.environ.get("CLUSTER") or ("kind" if docker_answers() else "native")
    match kind:
        case "kind":
            if not docker_answers():
                raise ClusterError("CLUSTER=kind, but no Docker answers: start Docker and run this again")
            return KindCluster(name)
        case "native":
            return NativeCluster(name)
        case "current":
            return CurrentCluster()
    raise ClusterError(f"CLUSTER={kind} is none of kind, native, current")
