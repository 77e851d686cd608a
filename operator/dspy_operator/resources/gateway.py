"""A namespace's gateway: Deployment, ServiceAccount, RoleBinding, PodDisruptionBudget, NetworkPolicy, token Secret and
port table."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from dspy_contract.routes import (
    CONTENT_KEY,
    FIRST_PORT,
    GATEWAY_NAME,
    LAST_PORT,
    PORTS_LABEL,
    PROBE_PORT,
    RUNTIME_PORT,
    RUNTIME_PROBE_PORT,
    STATE_PORT,
    PortTable,
    dump,
)
from dspy_operator.api.names import FIELD_MANAGER, GATEWAY_CLUSTER_ROLE, GATEWAY_LABEL, MANAGED_BY_LABEL, NAME_LABEL
from dspy_operator.domain.gateway import CONTENT_ANNOTATION
from dspy_operator.resources.pods import RESTRICTED, spread_over_nodes

FOLDER = "/run/dspy-gateway"
GRACES_SECONDS = (630, 3_660)
"""How long a gateway pod may take to end: the least that covers the namespace's longest request. A change of it rolls
the namespace's gateway, so there are two values; a pod with nothing in flight ends in seconds whatever it is."""

NOTICE_SECONDS = 40
BOOTSTRAP = f"{FOLDER}/bootstrap.yaml"
TOKEN_FOLDER = "/var/run/secrets/dspy.dev/gateway"
TOKEN_KEY = "token"
WORKERS = 2
"""Envoy's threads. Its own default is one for each core of the node, each with memory of its own."""

MEMORY_LIMIT_BYTES = 1 << 30
"""Of the Envoy container: it sheds load before the kernel ends it."""

KINDS = ("ServiceAccount", "RoleBinding", "PodDisruptionBudget", "NetworkPolicy", "Secret", "ConfigMap", "Deployment")
"""Every kind of object that a gateway consists of, in the order in which they are made."""

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """What the operator's configuration says of gateways."""

    image: str
    replicas: int
    grace_seconds: int
    token: str
    """What the agents' state pages ask for."""


def port_table(namespace: str, table: PortTable) -> Manifest:
    """The ConfigMap with every program's listener port."""
    metadata = _metadata(namespace, {PORTS_LABEL: "true"})
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {CONTENT_KEY: dump(table)}}


def gateway(namespace: str, settings: GatewaySettings, table: PortTable) -> list[Manifest]:
    """All objects, in the order of KINDS."""
    metadata = _metadata(namespace)
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": GATEWAY_CLUSTER_ROLE}
    subject = {"kind": "ServiceAccount", "name": GATEWAY_NAME, "namespace": namespace}
    budget = {"maxUnavailable": 1, "selector": {"matchLabels": {GATEWAY_LABEL: "true"}}}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": role,
            "subjects": [subject],
        },
        {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata, "spec": budget},
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": metadata,
            "spec": _network_policy(),
        },
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata,
            "data": {TOKEN_KEY: base64.b64encode(settings.token.encode()).decode()},
        },
        port_table(namespace, table),
        _annotated(
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": _deployment(settings)}
        ),
    ]


def _annotated(deployment: Manifest) -> Manifest:
    content = hashlib.sha256(json.dumps(deployment, sort_keys=True).encode()).hexdigest()[:16]
    return {**deployment, "metadata": {**deployment["metadata"], "annotations": {CONTENT_ANNOTATION: content}}}


def grace_seconds(longest_request_seconds: int) -> int:
    """How long a gateway pod may take to end when its longest request may take that long."""
    needed = longest_request_seconds + NOTICE_SECONDS
    return next((grace for grace in GRACES_SECONDS if grace >= needed), GRACES_SECONDS[-1])


def _metadata(namespace: str, labels: dict[str, str] | None = None) -> Manifest:
    ours = {NAME_LABEL: GATEWAY_NAME, MANAGED_BY_LABEL: FIELD_MANAGER, GATEWAY_LABEL: "true"}
    return {"name": GATEWAY_NAME, "namespace": namespace, "labels": {**ours, **(labels or {})}}


def _network_policy() -> Manifest:
    """Who may reach the namespace's gateway and its programs: predictions go through the gateway, so that each is
    counted.

    Pages of metrics and health are open to everybody, as scrapers may be anywhere; the agents' states need a token.
    """
    from_gateways = [{"podSelector": {"matchLabels": {GATEWAY_LABEL: "true"}}}]
    pages = [{"port": port} for port in (RUNTIME_PROBE_PORT, STATE_PORT, PROBE_PORT)]
    return {
        "podSelector": {"matchLabels": {MANAGED_BY_LABEL: FIELD_MANAGER}},
        "policyTypes": ["Ingress"],
        "ingress": [
            {"from": from_gateways, "ports": [{"protocol": "TCP", "port": RUNTIME_PORT}]},
            {
                "ports": [
                    {"protocol": "TCP", "port": FIRST_PORT, "endPort": LAST_PORT},
                    *({"protocol": "TCP", **page} for page in pages),
                ]
            },
        ],
    }


def _deployment(settings: GatewaySettings) -> Manifest:
    labels = {NAME_LABEL: GATEWAY_NAME, MANAGED_BY_LABEL: FIELD_MANAGER, GATEWAY_LABEL: "true"}
    return {
        "replicas": settings.replicas,
        "selector": {"matchLabels": {GATEWAY_LABEL: "true"}},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {"metadata": {"labels": labels}, "spec": _pod(settings)},
    }


def _pod(settings: GatewaySettings) -> Manifest:
    return {
        "serviceAccountName": GATEWAY_NAME,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": settings.grace_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "initContainers": [_agent(settings)],
        "containers": [_envoy(settings)],
        "topologySpreadConstraints": spread_over_nodes({GATEWAY_LABEL: "true"}),
        "volumes": [
            {"name": "run", "emptyDir": {}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "token", "secret": {"secretName": GATEWAY_NAME}},
        ],
    }


def _agent(settings: GatewaySettings) -> Manifest:
    """The agent as a native sidecar: Envoy starts once the agent knows what to tell it, and ends before the agent
    does."""
    return {
        **_container("agent", settings.image),
        "args": ["agent"],
        "restartPolicy": "Always",
        "env": _environment(settings),
        "ports": [{"name": "state", "containerPort": STATE_PORT}],
        "startupProbe": {
            "httpGet": {"path": "/startz", "port": STATE_PORT},
            "periodSeconds": 1,
            "failureThreshold": 600,
        },
        "livenessProbe": {
            "httpGet": {"path": "/livez", "port": STATE_PORT},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
        "resources": {"requests": {"cpu": "20m", "memory": "96Mi"}},
    }


def _envoy(settings: GatewaySettings) -> Manifest:
    return {
        **_container("envoy", settings.image),
        "command": ["envoy"],
        "args": [
            "-c",
            BOOTSTRAP,
            "--disable-hot-restart",
            "--concurrency",
            str(WORKERS),
            "--log-level",
            "warning",
            "--component-log-level",
            "config:error",
        ],
        "env": _environment(settings),
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": PROBE_PORT},
            "periodSeconds": 1,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
        "lifecycle": {"preStop": {"exec": {"command": ["python", "-m", "dspy_gateway", "drain"]}}},
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}},
    }


def _container(name: str, image: str) -> Manifest:
    return {
        "name": name,
        "image": image,
        "securityContext": RESTRICTED,
        "volumeMounts": [
            {"name": "run", "mountPath": FOLDER},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "token", "mountPath": TOKEN_FOLDER, "readOnly": True},
        ],
    }


def _environment(settings: GatewaySettings) -> list[Manifest]:
    def from_field(path: str) -> Manifest:
        return {"fieldRef": {"fieldPath": path}}

    return [
        {"name": "DSPY_GATEWAY_POD", "valueFrom": from_field("metadata.name")},
        {"name": "DSPY_GATEWAY_NAMESPACE", "valueFrom": from_field("metadata.namespace")},
        {"name": "DSPY_GATEWAY_FOLDER", "value": FOLDER},
        {"name": "DSPY_GATEWAY_TOKEN_FILE", "value": f"{TOKEN_FOLDER}/{TOKEN_KEY}"},
        {"name": "DSPY_GATEWAY_MEMORY_LIMIT_BYTES", "value": str(MEMORY_LIMIT_BYTES)},
        {"name": "DSPY_GATEWAY_DRAIN_SECONDS", "value": str(settings.grace_seconds - NOTICE_SECONDS // 2)},
    ]
