"""Puts the operator, with what the demo overlay adds, onto a cluster: the shipped manifests with the local images."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from typing import Any

import yaml

from dev.cluster.interface import REPOSITORY, Cluster, ClusterError
from dev.images import builder

SYSTEM = "dspy-system"
OVERLAY = "manifests/overlays/demo"
TIMEOUT = "180s"


def kubectl(cluster: Cluster, *arguments: str, stdin: str | None = None) -> str:
    """Runs kubectl and returns what it prints. Raises ClusterError with kubectl's own words."""
    result = subprocess.run([*cluster.kubectl(), *arguments], input=stdin, capture_output=True, text=True)
    if result.returncode != 0:
        raise ClusterError(f"kubectl {' '.join(arguments[:4])} failed: {result.stderr.strip()}")
    return result.stdout


def deploy(cluster: Cluster, variables: Mapping[str, str] | None = None) -> None:
    """Builds and loads the images, applies the overlay, and waits until everything runs.

    `variables` are more environment variables of the operator.
    """
    references = builder.build()
    cluster.load(list(references.values()))
    rendered = kubectl(cluster, "kustomize", str(REPOSITORY / OVERLAY))
    objects = [_with_local_images(item, references, variables or {}) for item in yaml.safe_load_all(rendered)]
    kubectl(cluster, "apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(objects))
    for name in ("mlflow", "lm", "client", "dspy-operator"):
        kubectl(cluster, "rollout", "status", "-n", SYSTEM, f"deployment/{name}", f"--timeout={TIMEOUT}")


def _with_local_images(
    item: dict[str, Any], references: Mapping[str, str], variables: Mapping[str, str]
) -> dict[str, Any]:
    if item["kind"] != "Deployment":
        return item
    container = item["spec"]["template"]["spec"]["containers"][0]
    name = container["image"].removeprefix("dspy-operator/").partition(":")[0]
    container["image"] = references[name]
    if name == "operator":
        ours = {
            "DSPY_OPERATOR_GATEWAY_IMAGE": references["gateway"],
            "DSPY_OPERATOR_RUNTIME_IMAGE": references["runtime"],
            "DSPY_OPERATOR_RUNTIME_PYTHONS": json.dumps([builder.python()]),
            **variables,
        }
        known = [variable for variable in container["env"] if variable["name"] not in ours]
        container["env"] = [*known, *({"name": key, "value": value} for key, value in ours.items())]
    return item
