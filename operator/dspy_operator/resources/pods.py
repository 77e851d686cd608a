"""What the pods of programs and of gateways have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RESTRICTED: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
"""The security context of every container."""


def spread_over_nodes(labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """Pods with these labels run on different nodes, as far as there are any."""
    return [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": dict(labels)},
        }
    ]
