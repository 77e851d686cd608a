"""What may reach whom under a default deny, by the semantics of NetworkPolicy: some flows pass, others must not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from dev.cluster.interface import REPOSITORY
from dspy_contract.routes import (
    FIRST_PORT,
    LAST_PORT,
    PROBE_PORT,
    RUNTIME_PORT,
    RUNTIME_PROBE_PORT,
    STATE_PORT,
    PortTable,
)
from dspy_operator.resources.gateway import GatewaySettings, gateway

EGRESS = list(yaml.safe_load_all((REPOSITORY / "manifests" / "examples" / "network-policies.yaml").read_text()))
OBJECTS = {each["kind"]: each for each in gateway("ns", GatewaySettings("image", 2, 630, "token"), PortTable())}
POLICIES = [OBJECTS["NetworkPolicy"], *EGRESS]

GATEWAY: dict[str, str] = OBJECTS["Deployment"]["spec"]["template"]["metadata"]["labels"]
PROGRAM = {"app.kubernetes.io/managed-by": "dspy-operator", "dspy.dev/program": "qa", "dspy.dev/revision": "qa-1"}
CLIENT = {"app": "client"}


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a pod selector selects a pod."""
    exact = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    assert all(each["operator"] == "Exists" for each in selector.get("matchExpressions", ()))
    return exact and all(each["key"] in labels for each in selector.get("matchExpressions", ()))


def passes(direction: str, pod: Mapping[str, str], peer: Mapping[str, str], port: int, protocol: str = "TCP") -> bool:
    """Whether a pod may talk with another one of its namespace, where all is denied that is not allowed."""
    key, side = ("ingress", "from") if direction == "Ingress" else ("egress", "to")
    rules = [
        rule
        for policy in POLICIES
        if direction in policy["spec"]["policyTypes"] and selects(policy["spec"]["podSelector"], pod)
        for rule in policy["spec"].get(key, ())
    ]
    return any(_peer(rule.get(side), peer) and _port(rule.get("ports"), port, protocol) for rule in rules)


def _peer(peers: list[dict[str, Any]] | None, labels: Mapping[str, str]) -> bool:
    return peers is None or any(
        "namespaceSelector" in each or ("podSelector" in each and selects(each["podSelector"], labels))
        for each in peers
    )


def _port(ports: list[dict[str, Any]] | None, port: int, protocol: str) -> bool:
    return ports is None or any(
        each["protocol"] == protocol and each["port"] <= port <= each.get("endPort", each["port"]) for each in ports
    )


@pytest.mark.parametrize(
    ("pod", "peer", "port"),
    [
        (PROGRAM, GATEWAY, RUNTIME_PORT),
        (PROGRAM, CLIENT, RUNTIME_PROBE_PORT),
        (GATEWAY, CLIENT, FIRST_PORT),
        (GATEWAY, CLIENT, LAST_PORT),
        (GATEWAY, CLIENT, STATE_PORT),
        (GATEWAY, CLIENT, PROBE_PORT),
    ],
)
def test_what_is_needed_comes_in(pod: dict[str, str], peer: dict[str, str], port: int) -> None:
    assert passes("Ingress", pod, peer, port)


def test_predictions_come_through_the_gateway_only() -> None:
    assert not passes("Ingress", PROGRAM, CLIENT, RUNTIME_PORT)
    assert not passes("Ingress", PROGRAM, PROGRAM, RUNTIME_PORT)
    assert not passes("Ingress", GATEWAY, CLIENT, 9_901)


def test_what_is_needed_goes_out() -> None:
    assert passes("Egress", GATEWAY, PROGRAM, RUNTIME_PORT)
    assert passes("Egress", GATEWAY, CLIENT, 6_443)
    assert passes("Egress", GATEWAY, CLIENT, 53, "UDP")
    assert passes("Egress", PROGRAM, CLIENT, 53, "UDP")
    assert passes("Egress", PROGRAM, CLIENT, 5_000)
    assert not passes("Egress", GATEWAY, CLIENT, 5_432)


def test_no_program_reaches_the_clouds_metadata() -> None:
    blocks = [
        peer["ipBlock"] for rule in EGRESS[1]["spec"]["egress"] for peer in rule.get("to", ()) if "ipBlock" in peer
    ]
    assert {"cidr": "0.0.0.0/0", "except": ["169.254.169.254/32"]} in blocks


def test_every_port_that_the_gateway_names_is_allowed() -> None:
    pod = OBJECTS["Deployment"]["spec"]["template"]["spec"]
    named = [
        port["containerPort"] for each in (*pod["initContainers"], *pod["containers"]) for port in each.get("ports", ())
    ]
    assert all(passes("Ingress", GATEWAY, CLIENT, port) for port in named)
