"""Where objects live in the Kubernetes API. Pure."""

from __future__ import annotations

from dspy_operator.api.names import API_VERSION, PROGRAMS, ROLLOUTS

_PLACES = {
    "DSPyProgram": (API_VERSION, PROGRAMS),
    "DSPyRollout": (API_VERSION, ROLLOUTS),
    "ControllerRevision": ("apps/v1", "controllerrevisions"),
    "Deployment": ("apps/v1", "deployments"),
    "Service": ("v1", "services"),
    "ConfigMap": ("v1", "configmaps"),
    "Pod": ("v1", "pods"),
    "Secret": ("v1", "secrets"),
    "Lease": ("coordination.k8s.io/v1", "leases"),
    "Event": ("v1", "events"),
    "ServiceAccount": ("v1", "serviceaccounts"),
    "RoleBinding": ("rbac.authorization.k8s.io/v1", "rolebindings"),
    "NetworkPolicy": ("networking.k8s.io/v1", "networkpolicies"),
    "PodDisruptionBudget": ("policy/v1", "poddisruptionbudgets"),
}


def path(kind: str, namespace: str | None, name: str = "", subresource: str = "") -> str:
    """The path of a collection, an object, or a subresource. Without a namespace: the collection over all
    namespaces."""
    version, plural = _PLACES[kind]
    root = f"/api/{version}" if "/" not in version else f"/apis/{version}"
    middle = f"/namespaces/{namespace}" if namespace else ""
    return "".join([root, middle, f"/{plural}", f"/{name}" if name else "", f"/{subresource}" if subresource else ""])
