"""A revision: its name, its ControllerRevision, and the Deployment and headless Service that it pins for good.

The manifests are built once, when the revision is made, and kept inside the ControllerRevision: an upgrade of the
operator changes no running Deployment.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from dspy_contract.routes import PROGRAM_LABEL, REVISION_LABEL, RUNTIME_PORT
from dspy_operator.api.convert import to_dict
from dspy_operator.api.names import API_VERSION, FIELD_MANAGER, MANAGED_BY_LABEL, NAME_LABEL
from dspy_operator.api.program import NOT_IN_REVISION, ProgramSpec
from dspy_operator.domain.snapshot import Program, Revision, Version
from dspy_operator.resources.runtime_pod import ARCHIVE, Runtime, archive_name, pod_template

PROJECTION = 1
"""The version of what a revision's name is a hash of; tests/unit/revisions has what it must give."""

Manifest = dict[str, Any]


def revision_name(program: str, spec: ProgramSpec, version: Version, refreshed: int = 0) -> str:
    """`<program>-<hash8>` over what the spec says that is no default, the version's identity, and how often a person
    asked to make the revision anew.

    The names in it are those of PROJECTION, which stay when the API's change: an upgrade of the operator, a field that
    gets another name, and a default that is written down start no release.
    """
    settings = {name: value for name, value in to_dict(spec).items() if name not in NOT_IN_REVISION}
    settings["model"] = {name: value for name, value in settings["model"].items() if name != "uri"}
    identity = {
        "projection": PROJECTION,
        "spec": settings,
        "modelId": version.model_id,
        "digest": version.digest,
        **({"refreshed": refreshed} if refreshed else {}),
    }
    return f"{program}-{hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]}"


def controller_revision(
    program: Program, name: str, version: Version, runtime: Runtime, refreshed: int = 0
) -> Manifest:
    """The ControllerRevision of a version with the program's settings as they are now."""
    data = {
        "model": {
            "registry": program.spec.model.registry,
            "uri": version.uri,
            "version": version.number,
            "modelId": version.model_id,
            "digest": version.digest,
            "archiveBytes": version.archive_bytes if runtime.archived else 0,
        },
        "python": version.python,
        "dspy": version.dspy,
        "lm": program.spec.lm.model,
        "refreshed": refreshed,
        "firstName": revision_name(program.name, program.spec, version),
        "timeoutSeconds": program.spec.serving.timeout_seconds,
        **({"cached": True} if program.spec.cache else {}),
        "deployment": _deployment(program, name, version, runtime),
        "service": _headless_service(program, name),
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": _metadata(program, name),
        "data": data,
        "revision": int(version.number) if version.number.isdigit() else 0,
    }


def read_revision(manifest: Mapping[str, Any]) -> Revision:
    """A ControllerRevision as the plan sees it."""
    data, metadata = manifest["data"], manifest["metadata"]
    return Revision(
        name=metadata["name"],
        created=metadata.get("creationTimestamp", ""),
        model_uri=data["model"]["uri"],
        version=data["model"]["version"],
        lm=data["lm"],
        timeout_seconds=data["timeoutSeconds"],
        deployment=data["deployment"],
        service=data["service"],
        model_id=data["model"]["modelId"],
        digest=data["model"]["digest"],
        registry=data["model"].get("registry", ""),
        python=data["python"],
        dspy=data.get("dspy", ""),
        archive_bytes=data["model"].get("archiveBytes", 0),
        refreshed=data.get("refreshed", 0),
        first_name=data.get("firstName") or metadata["name"],
        cached=data.get("cached", False),
    )


def version_of(revision: Revision) -> Version:
    """The version that a revision was made of."""
    identity = (revision.model_uri, revision.version, revision.model_id, revision.digest)
    return Version(*identity, revision.python, revision.dspy, revision.archive_bytes)


def archive_secret(revision: Revision, controller_revision: Mapping[str, Any], archive: bytes) -> Manifest:
    """The Secret with a revision's files, which goes with its ControllerRevision."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _metadata_below("ControllerRevision", controller_revision, archive_name(revision.name)),
        "immutable": True,
        "data": {ARCHIVE: base64.b64encode(archive).decode()},
    }


def scaled(deployment: Mapping[str, Any], replicas: int) -> Manifest:
    """A pinned Deployment with its number of replicas."""
    result = copy.deepcopy(dict(deployment))
    result["spec"]["replicas"] = replicas
    return result


def owner(program: Program) -> Manifest:
    """The reference by which Kubernetes removes a child with its program."""
    return {
        "apiVersion": API_VERSION,
        "kind": "DSPyProgram",
        "name": program.name,
        "uid": program.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _labels(program: str, revision: str) -> dict[str, str]:
    return {NAME_LABEL: program, MANAGED_BY_LABEL: FIELD_MANAGER, PROGRAM_LABEL: program, REVISION_LABEL: revision}


def _metadata(program: Program, name: str) -> Manifest:
    return {
        "name": name,
        "namespace": program.namespace,
        "labels": _labels(program.name, name),
        "ownerReferences": [owner(program)],
    }


def _metadata_below(kind: str, parent: Mapping[str, Any], name: str) -> Manifest:
    """Of an object that goes with another of the revision's; one that was listed does not say its kind."""
    metadata = parent["metadata"]
    reference = {"apiVersion": "apps/v1", "kind": kind, "name": metadata["name"], "uid": metadata["uid"]}
    return {
        "name": name,
        "namespace": metadata["namespace"],
        "labels": metadata["labels"],
        "ownerReferences": [reference],
    }


def disruption_budget(revision: Revision, deployment: Mapping[str, Any]) -> Manifest:
    """At most one pod of a revision may be evicted at once. It goes with the Deployment.

    One of a single pod needs none, and a budget of the program would count a candidate that never gets ready against
    stable.
    """
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _metadata_below("Deployment", deployment, revision.name),
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": {REVISION_LABEL: revision.name}},
        },
    }


def _headless_service(program: Program, name: str) -> Manifest:
    """Only for its EndpointSlices, which tell the gateways where the pods are."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(program, name),
        "spec": {
            "clusterIP": "None",
            "selector": {REVISION_LABEL: name},
            "ports": [{"name": "http", "port": RUNTIME_PORT, "targetPort": "http"}],
        },
    }


def _deployment(program: Program, name: str, version: Version, runtime: Runtime) -> Manifest:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(program, name),
        "spec": {
            "selector": {"matchLabels": {REVISION_LABEL: name}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "revisionHistoryLimit": 0,
            "template": pod_template(program, name, _labels(program.name, name), version, runtime),
        },
    }
