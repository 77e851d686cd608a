"""The objects of a program that are not of one revision: its routes and its Service."""

from __future__ import annotations

from typing import Any

from dspy_contract.routes import CONTENT_KEY, PROGRAM_LABEL, ROUTES_LABEL, Routes, dump, routes_name
from dspy_operator.api.names import FIELD_MANAGER, GATEWAY_LABEL, MANAGED_BY_LABEL, NAME_LABEL
from dspy_operator.domain.snapshot import Program
from dspy_operator.resources.revision import owner

Manifest = dict[str, Any]


def routes(program: Program, content: Routes) -> Manifest:
    """The ConfigMap that the gateways follow, of the program or of its preview."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(program, routes_name(content.program), {ROUTES_LABEL: "true"}),
        "data": {CONTENT_KEY: dump(content)},
    }


def lost_ledger(program: Program, content: str) -> Manifest:
    """The ConfigMap with a ledger that could not be read."""
    metadata = _metadata(program, f"{program.name}-ledger-lost", {})
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"release.json": content}}


def service(program: Program, name: str, port: int) -> Manifest:
    """A stable address of the program, or of its preview: port 80, which is a listener of its own on every gateway
    pod."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(program, name, {}),
        "spec": {
            "selector": {GATEWAY_LABEL: "true"},
            "ports": [{"name": "http", "port": 80, "targetPort": port, "protocol": "TCP"}],
        },
    }


def _metadata(program: Program, name: str, labels: dict[str, str]) -> Manifest:
    ours = {NAME_LABEL: program.name, MANAGED_BY_LABEL: FIELD_MANAGER, PROGRAM_LABEL: program.name}
    return {
        "name": name,
        "namespace": program.namespace,
        "labels": {**ours, **labels},
        "ownerReferences": [owner(program)],
    }
