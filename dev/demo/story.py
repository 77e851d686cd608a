"""The resources of the demo: what a user would write. The same text stands in manifests/examples."""

from __future__ import annotations

from typing import Any

import yaml

from dev.cluster.interface import REPOSITORY

NAMESPACE = "shop"
NAME = "support-triage"
RATE = 30.0
_EXAMPLES = REPOSITORY / "manifests" / "examples"

POLICY: dict[str, Any] = yaml.safe_load((_EXAMPLES / "rollout.yaml").read_text())


def the_program(version: str) -> dict[str, Any]:
    """The example's program with a version's number in place of its alias."""
    manifest: dict[str, Any] = yaml.safe_load((_EXAMPLES / "program.yaml").read_text())
    manifest["spec"]["model"]["uri"] = f"models:/{NAME}/{version}"
    return manifest
