"""Which objects the operator holds in memory, what of each, and by which word they are found again. Pure.

A pass reads nothing else. Children are watched by their label, Secrets by the one name that may be read, events by what
they tell: why a pod's volumes cannot be mounted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dspy_contract.routes import GATEWAY_NAME, PROGRAM_LABEL
from dspy_kube.client import Object
from dspy_operator.api.names import FIELD_MANAGER, MANAGED_BY_LABEL

_OURS = {"labelSelector": f"{MANAGED_BY_LABEL}={FIELD_MANAGER}"}

CHILDREN: Mapping[str, Mapping[str, str]] = {
    "ConfigMap": _OURS,
    "Pod": _OURS,
    "Deployment": _OURS,
    "ControllerRevision": _OURS,
    "Service": _OURS,
    "ServiceAccount": _OURS,
    "RoleBinding": _OURS,
    "PodDisruptionBudget": _OURS,
    "NetworkPolicy": _OURS,
    "Secret": {"fieldSelector": f"metadata.name={GATEWAY_NAME}"},
    "Event": {"fieldSelector": "involvedObject.kind=Pod,reason=FailedMount"},
}
"""Every kind that the operator lists and watches itself, with its selectors."""

RESOURCES = ("DSPyProgram", "DSPyRollout")
"""The kinds that kopf watches."""

_NOISE = "kubectl.kubernetes.io/last-applied-configuration"
_POD = ("name", "namespace", "uid", "resourceVersion", "labels", "ownerReferences", "deletionTimestamp")
_COUNTS = ("observedGeneration", "replicas", "updatedReplicas", "availableReplicas")
_CONTAINER = ("name", "image", "restartCount", "state", "lastState")


def selects(kind: str, item: Object) -> bool:
    """True for an object that its kind's watch hears of: any other would stay in memory for good."""
    if CHILDREN.get(kind) is not _OURS:
        return True
    return bool((item["metadata"].get("labels") or {}).get(MANAGED_BY_LABEL) == FIELD_MANAGER)


def project(kind: str, item: Object) -> Object:
    """What of an object is kept: never who manages its fields, and of pods and Deployments what is read of them."""
    metadata = {name: each for name, each in item["metadata"].items() if name != "managedFields"}
    if _NOISE in (metadata.get("annotations") or {}):
        metadata["annotations"] = {name: each for name, each in metadata["annotations"].items() if name != _NOISE}
    status = item.get("status") or {}
    match kind:
        case "Pod":
            return {"metadata": _only(metadata, _POD), "status": _pod_status(status)}
        case "Deployment":
            # How far a gateway has been replaced matters; of programs, their pods tell.
            counts = () if PROGRAM_LABEL in (metadata.get("labels") or {}) else _COUNTS
            kept = {"conditions": _conditions(status), **_only(status, counts)}
            return {**item, "metadata": metadata, "status": kept}
        case "Event":
            about = _only(item.get("involvedObject") or {}, ("name", "uid"))
            return {"metadata": metadata, "involvedObject": about, "message": item.get("message", "")}
        case _:
            return {**item, "metadata": metadata}


def group(kind: str, item: Object) -> str:
    """The program that an object belongs to; empty for what belongs to a namespace's gateway. Of an event, its pod."""
    if kind == "Event":
        return str(item["involvedObject"].get("name", ""))
    if kind == "DSPyRollout":
        return str(item["spec"]["programRef"]["name"])
    return str((item["metadata"].get("labels") or {}).get(PROGRAM_LABEL, ""))


def _pod_status(status: Mapping[str, Any]) -> Object:
    statuses = {
        kind: [_only(each, _CONTAINER) for each in status[kind]]
        for kind in ("initContainerStatuses", "containerStatuses")
        if status.get(kind)
    }
    return {**_only(status, ("podIP", "phase")), "conditions": _conditions(status), **statuses}


def _conditions(status: Mapping[str, Any]) -> list[Object]:
    return [_only(each, ("type", "status", "reason", "message")) for each in status.get("conditions") or ()]


def _only(item: Mapping[str, Any], names: tuple[str, ...]) -> Object:
    return {name: item[name] for name in names if name in item}
