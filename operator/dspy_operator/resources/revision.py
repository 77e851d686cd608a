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
from dataclasses import dataclass
from typing import Any

from dspy_contract.routes import PROGRAM_LABEL, REVISION_LABEL, RUNTIME_PORT, RUNTIME_PROBE_PORT
from dspy_operator.api.convert import to_dict
from dspy_operator.api.names import API_VERSION, FIELD_MANAGER, MANAGED_BY_LABEL, NAME_LABEL
from dspy_operator.api.program import LM, NOT_IN_REVISION, ProgramSpec
from dspy_operator.domain.snapshot import Program, Revision, Version
from dspy_operator.resources.pods import RESTRICTED, spread_over_nodes

PRE_STOP_SECONDS = 2
"""Longer than an endpoint takes to leave every gateway, so that no request meets a pod that has stopped."""

CREDENTIALS_FOLDER = "/var/run/secrets/dspy.dev/lm"
SETTINGS_ANNOTATION = "dspy.dev/settings"
SETTINGS_FOLDER = "/var/run/dspy/settings"
SETTINGS_FILE = "settings.json"
PROJECTION = 1
"""The version of what a revision's name is a hash of; tests/unit/revisions has what it must give."""

ARTIFACT_FOLDER = "/var/run/dspy/artifact"
ARCHIVE = "model.tar.gz"
CONTAINER = "runtime"
FETCH_CONTAINER = "fetch"

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Runtime:
    """What the operator's configuration adds to a revision: the image of its Python minor, the registry's address, and
    whether the files are kept in the cluster."""

    image: str
    registry_url: str
    archived: bool


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


def archive_name(revision: str) -> str:
    """The name of the Secret with a revision's files."""
    return f"{revision}-artifact"


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
    labels = _labels(program.name, name)
    pod = program.spec.pod
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(program, name),
        "spec": {
            "selector": {"matchLabels": {REVISION_LABEL: name}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "revisionHistoryLimit": 0,
            "template": {
                "metadata": {
                    "labels": {**pod.labels, **labels},
                    "annotations": {
                        **pod.annotations,
                        SETTINGS_ANNOTATION: json.dumps(settings(program.spec, name, version, runtime), sort_keys=True),
                    },
                },
                "spec": _pod_spec(program.spec, name, version, runtime),
            },
        },
    }


def _pod_spec(spec: ProgramSpec, name: str, version: Version, runtime: Runtime) -> Manifest:
    pod = spec.pod
    files = {"secret": {"secretName": archive_name(name)}} if runtime.archived else {"emptyDir": {}}
    volumes = [
        {"name": "tmp", "emptyDir": {}},
        {"name": "artifact", **files},
        {"name": "settings", "downwardAPI": {"items": [_settings_item()]}},
        *_credential_volumes(spec),
        *map(dict, pod.volumes),
    ]
    optional = {
        "nodeSelector": dict(pod.node_selector),
        "tolerations": [*map(dict, pod.tolerations)],
        "affinity": dict(pod.affinity),
        "topologySpreadConstraints": [*map(dict, pod.topology_spread_constraints)]
        or spread_over_nodes({REVISION_LABEL: name}),
        "priorityClassName": pod.priority_class_name,
        "serviceAccountName": pod.service_account_name,
        "imagePullSecrets": [*map(dict, pod.image_pull_secrets)],
    }
    return {
        "automountServiceAccountToken": pod.service_account_name is not None,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": spec.serving.timeout_seconds + PRE_STOP_SECONDS + 30,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        **({} if runtime.archived else {"initContainers": [_fetch(spec, version, runtime)]}),
        "containers": [_container(spec, name, version, runtime)],
        "volumes": volumes,
        **{key: value for key, value in optional.items() if value},
    }


def _fetch(spec: ProgramSpec, version: Version, runtime: Runtime) -> Manifest:
    """Downloads the version's files. It alone knows the registry and its credentials, and waits for it without end."""
    variables = {
        "DSPY_RUNTIME_MODEL": f"models:/{version.model_id}" if version.model_id else version.uri,
        "DSPY_RUNTIME_DIGEST": version.digest,
        "MLFLOW_TRACKING_URI": runtime.registry_url,
    }
    container: Manifest = {
        "name": FETCH_CONTAINER,
        "image": spec.image or runtime.image,
        "command": ["python", "-m", "dspy_runtime.artifact"],
        "args": [f"{ARTIFACT_FOLDER}/model"],
        "env": [{"name": key, "value": value} for key, value in variables.items()],
        "securityContext": RESTRICTED,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "artifact", "mountPath": ARTIFACT_FOLDER}],
    }
    if spec.resources:
        container["resources"] = dict(spec.resources)
    if spec.model.credentials_secret:
        container["envFrom"] = [{"secretRef": {"name": spec.model.credentials_secret}}]
    return container


def _container(spec: ProgramSpec, name: str, version: Version, runtime: Runtime) -> Manifest:
    container: Manifest = {
        "name": CONTAINER,
        "image": spec.image or runtime.image,
        "env": [
            {"name": "DSPY_RUNTIME_SETTINGS_FILE", "value": f"{SETTINGS_FOLDER}/{SETTINGS_FILE}"},
            *map(dict, spec.env),
        ],
        "ports": [
            {"name": "http", "containerPort": RUNTIME_PORT},
            {"name": "probes", "containerPort": RUNTIME_PROBE_PORT},
        ],
        "startupProbe": _probe("/readyz", 1, failures=600),
        "readinessProbe": _probe("/readyz", 1, failures=2),
        "livenessProbe": _probe("/livez", 10, failures=6),
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}},
        "terminationMessagePath": "/dev/termination-log",
        "securityContext": RESTRICTED,
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "artifact", "mountPath": ARTIFACT_FOLDER, "readOnly": True},
            {"name": "settings", "mountPath": SETTINGS_FOLDER, "readOnly": True},
            *_credential_mounts(spec),
            *map(dict, spec.pod.volume_mounts),
        ],
    }
    if spec.resources:
        container["resources"] = dict(spec.resources)
    secrets = dict.fromkeys(lm.credentials.env_from.name for lm in _models(spec) if lm.credentials.env_from)
    if secrets:
        container["envFrom"] = [{"secretRef": {"name": secret}} for secret in secrets]
    return container


def settings(spec: ProgramSpec, name: str, version: Version, runtime: Runtime) -> dict[str, Any]:
    """What the runtime's process is told, as its settings file has it."""
    serving = spec.serving
    default, *others = (_lm(lm, number) for number, lm in enumerate(_models(spec)))
    return {
        "model": f"{ARTIFACT_FOLDER}/{ARCHIVE if runtime.archived else 'model'}",
        "digest": version.digest,
        "revision": name,
        "lm": {**default, "by_predictor": dict(zip(sorted(spec.lm.by_predictor), others, strict=True))},
        "concurrency": serving.concurrency,
        "queue": serving.queue,
        "timeout_seconds": serving.timeout_seconds,
        "drain_seconds": serving.timeout_seconds + 10,
        "log_messages": serving.log_messages,
        "given_schema": _given({"input": serving.schema.input, "output": serving.schema.output}),
    }


def _models(spec: ProgramSpec) -> list[LM]:
    """The default model and those of single predictors."""
    return [spec.lm, *(spec.lm.by_predictor[name] for name in sorted(spec.lm.by_predictor))]


def _lm(lm: LM, number: int) -> dict[str, Any]:
    found = {
        "model": lm.model,
        "api": lm.api,
        "api_base": lm.api_base,
        "region": lm.region,
        "project": lm.project,
        "location": lm.location,
        "resource": lm.resource,
        "organization": lm.organization,
        "headers": dict(lm.headers),
        "parameters": dict(lm.parameters),
        "timeout_seconds": lm.timeout_seconds,
        "max_retries": lm.max_retries,
        "api_key_file": f"{CREDENTIALS_FOLDER}/{number}" if lm.credentials.api_key else None,
    }
    return _given(found)


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value not in (None, {})}


def _settings_item() -> Manifest:
    return {"path": SETTINGS_FILE, "fieldRef": {"fieldPath": f"metadata.annotations['{SETTINGS_ANNOTATION}']"}}


def _credential_volumes(spec: ProgramSpec) -> list[Manifest]:
    """One volume with the keys of all models, by the model's number."""
    keys = [(number, lm.credentials.api_key) for number, lm in enumerate(_models(spec))]
    sources = [
        {"secret": {"name": key.name, "items": [{"key": key.key, "path": str(number)}]}} for number, key in keys if key
    ]
    return [{"name": "lm-credentials", "projected": {"sources": sources}}] if sources else []


def _credential_mounts(spec: ProgramSpec) -> list[Manifest]:
    mount = {"name": "lm-credentials", "mountPath": CREDENTIALS_FOLDER, "readOnly": True}
    return [mount] if any(lm.credentials.api_key for lm in _models(spec)) else []


def _probe(path: str, period_seconds: int, failures: int) -> Manifest:
    return {
        "httpGet": {"path": path, "port": "probes"},
        "periodSeconds": period_seconds,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }
