"""What the pods of a revision say about themselves, and which of it can heal. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dspy_kube.objects import is_ready
from dspy_operator.api.names import STABLE_ANNOTATION
from dspy_operator.api.reasons import Reason
from dspy_operator.api.times import seconds
from dspy_operator.domain.snapshot import Problem, Workload
from dspy_operator.resources.runtime_pod import CONTAINER, FETCH_CONTAINER, archive_name

FATAL = frozenset(
    {
        Reason.MODEL_LOAD_FAILED,
        Reason.MODEL_CHANGED,
        Reason.PYTHON_MISMATCH,
        Reason.MODEL_NOT_FOUND,
        Reason.SCHEMA_INVALID,
        Reason.GUARDRAIL_INVALID,
    }
)
"""Reasons of the runtime that no time heals."""

_IMAGE = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"})

Object = Mapping[str, Any]


FETCHING_SECONDS = 20.0
"""A pod that downloads its files for longer than this says so."""


def workload(
    deployment: Object, pods: Sequence[Object], mounts: Mapping[str, str], service: Object | None, now: float
) -> Workload:
    """A Deployment and its pods. `mounts` are the words of failed mounts by pod name, `now` is in Unix seconds."""
    live = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
    messages = [message for pod in live if not is_ready(pod) and (message := _termination(pod))]
    return Workload(
        replicas=deployment["spec"].get("replicas", 1),
        ready=sum(is_ready(pod) for pod in live),
        crashed=frozenset(pod["metadata"]["name"] for pod in live if _ended_by_itself(pod)),
        fatal=next((problem for problem in messages if problem.reason in FATAL), None),
        problem=_problem(live, messages, mounts, now) or _cannot_create(deployment),
        uid=deployment["metadata"]["uid"],
        service_uid=service["metadata"]["uid"] if service else None,
        archive_missing=any(f'"{archive_name(deployment["metadata"]["name"])}"' in words for words in mounts.values()),
        promoted_at=_promoted_at(deployment),
    )


def _problem(
    pods: Iterable[Object], messages: Sequence[Problem], mounts: Mapping[str, str], now: float
) -> Problem | None:
    for pod in pods:
        if is_ready(pod):
            continue
        found = _unschedulable(pod) or _missing_secret(pod, mounts) or _fetching(pod, now) or _waiting(pod)
        if found:
            return found
    return messages[0] if messages else None


def _promoted_at(deployment: Object) -> float | None:
    promoted = (deployment["metadata"].get("annotations") or {}).get(STABLE_ANNOTATION)
    if not promoted:
        return None
    try:
        # Before ledgers of version 2 it was Unix seconds.
        return seconds(promoted) if "T" in promoted else float(promoted)
    except ValueError:  # somebody edited it
        return None


def _container(pod: Object, name: str = CONTAINER) -> Object:
    return next((status for status in container_statuses(pod) if status["name"] == name), {})


def container_statuses(pod: Object) -> list[Object]:
    """Of a pod's init containers and containers."""
    status = pod.get("status", {})
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def _restarts(pod: Object) -> int:
    """Exits by itself; one that the kubelet asked for (its liveness probe failed) counts as well."""
    return int(_container(pod).get("restartCount", 0))


def _ended_by_itself(pod: Object) -> bool:
    """True when the runtime has ended with an exit code that is not 0, or out of memory."""
    status = _container(pod)
    states = (status.get("state") or {}, status.get("lastState") or {})
    ended = [state["terminated"] for state in states if state.get("terminated")]
    return any(each.get("exitCode", 0) != 0 or each.get("reason") == "OOMKilled" for each in ended)


def _termination(pod: Object) -> Problem | None:
    """The runtime's own words about why it did not start: the one JSON line of its termination message."""
    both = (_container(pod), _container(pod, FETCH_CONTAINER))
    for state in [status.get(name) or {} for status in both for name in ("state", "lastState")]:
        message = (state.get("terminated") or {}).get("message")
        if message:
            try:
                content = json.loads(message)
                return Problem(str(content["reason"]), str(content["message"]))
            except (ValueError, KeyError, TypeError):
                return None
    return None


def _unschedulable(pod: Object) -> Problem | None:
    for condition in pod.get("status", {}).get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return Problem(Reason.UNSCHEDULABLE, condition.get("message", "no node takes the pod"))
    return None


def _missing_secret(pod: Object, mounts: Mapping[str, str]) -> Problem | None:
    words = mounts.get(pod["metadata"]["name"])
    if not words:
        return None
    return Problem(Reason.SECRET_NOT_FOUND if "secret" in words else Reason.MOUNT_FAILED, words)


def _fetching(pod: Object, now: float) -> Problem | None:
    running = (_container(pod, FETCH_CONTAINER).get("state") or {}).get("running")
    if not running or now - seconds(running["startedAt"]) < FETCHING_SECONDS:
        return None
    name = pod["metadata"]["name"]
    words = f"A pod has waited for the version's files for {FETCHING_SECONDS:.0f} s"
    return Problem(Reason.REGISTRY_UNAVAILABLE, f"{words}: see kubectl logs {name} -c {FETCH_CONTAINER}")


def _waiting(pod: Object) -> Problem | None:
    waiting = (_container(pod).get("state") or {}).get("waiting") or {}
    reason = waiting.get("reason")
    if reason in _IMAGE:
        return Problem(Reason.IMAGE_NOT_PULLED, f"The image {_container(pod).get('image', '')} cannot be pulled")
    if reason == "CreateContainerConfigError":
        return Problem(Reason.CONFIGURATION_MISSING, waiting.get("message", "a Secret or ConfigMap is missing"))
    if reason == "CrashLoopBackOff":
        words = f"The runtime ended {_restarts(pod)} times; see kubectl logs {pod['metadata']['name']} --previous"
        return _termination(pod) or Problem(Reason.CRASHING, words)
    return None


def _cannot_create(deployment: Object) -> Problem | None:
    for condition in deployment.get("status", {}).get("conditions") or ():
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return Problem(Reason.PODS_REFUSED, condition.get("message", "the API refuses the pods"))
    return None
