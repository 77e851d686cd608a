"""The pod of a revision: its template, and what its process is told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dspy_contract.routes import REVISION_LABEL, RUNTIME_PORT, RUNTIME_PROBE_PORT
from dspy_operator.api.program import LM, Guardrail, LMEndpoint, Permission, ProgramSpec, SecretKey
from dspy_operator.domain.snapshot import Program, Version
from dspy_operator.resources.pods import RESTRICTED, spread_over_nodes

PRE_STOP_SECONDS = 2
"""Longer than an endpoint takes to leave every gateway, so that no request meets a pod that has stopped."""

CREDENTIALS_FOLDER = "/var/run/secrets/dspy.dev/lm"
REDIS_KEY_FILE = "redis"
"""Beside the keys of language models, which are numbers."""
SETTINGS_ANNOTATION = "dspy.dev/settings"
SETTINGS_FOLDER = "/var/run/dspy/settings"
SETTINGS_FILE = "settings.json"

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


def archive_name(revision: str) -> str:
    """The name of the Secret with a revision's files."""
    return f"{revision}-artifact"


def pod_template(
    program: Program, name: str, labels: Mapping[str, str], version: Version, runtime: Runtime
) -> Manifest:
    """The template of a revision's Deployment. Settings are an annotation that the downward API mounts: the revision
    pins them, and no object or right is added."""
    spec = program.spec
    told = json.dumps(settings(program, name, version, runtime), sort_keys=True)
    annotations = {**spec.pod.annotations, SETTINGS_ANNOTATION: told}
    return {
        "metadata": {"labels": {**spec.pod.labels, **labels}, "annotations": annotations},
        "spec": _pod_spec(spec, name, version, runtime),
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
    secrets = dict.fromkeys(lm.credentials.env_from.name for lm in _endpoints(spec).values() if lm.credentials.env_from)
    if secrets:
        container["envFrom"] = [{"secretRef": {"name": secret}} for secret in secrets]
    return container


def settings(program: Program, name: str, version: Version, runtime: Runtime) -> dict[str, Any]:
    """What the runtime's process is told, as its settings file has it."""
    spec, serving = program.spec, program.spec.serving
    default, *others = (_lm(lm, number) for number, lm in enumerate(_models(spec)))
    return {
        "model": f"{ARTIFACT_FOLDER}/{ARCHIVE if runtime.archived else 'model'}",
        "digest": version.digest,
        "revision": name,
        "lm": {
            **default,
            "by_predictor": dict(zip(sorted(spec.lm.by_predictor), others, strict=True)),
            **_given({"last_resort": dict(spec.lm.last_resort)}),
        },
        "concurrency": serving.concurrency,
        "queue": serving.queue,
        "timeout_seconds": serving.timeout_seconds,
        "drain_seconds": serving.timeout_seconds + 10,
        "log_messages": serving.log_messages,
        **({"priorities": "Allow"} if serving.priorities is Permission.ALLOW else {}),
        **_given({"guardrails": [_guardrail(each) for each in spec.guardrails]}),
        **_shared(program),
        "given_schema": _given({"input": serving.schema.input, "output": serving.schema.output}),
    }


def _models(spec: ProgramSpec) -> list[LM]:
    """The default model and those of single predictors."""
    return [spec.lm, *(spec.lm.by_predictor[name] for name in sorted(spec.lm.by_predictor))]


def _endpoints(spec: ProgramSpec) -> dict[str, LMEndpoint]:
    """Those of all models, by the name of the file with their key."""
    models = list(enumerate(_models(spec)))
    fallbacks = {_key_file(number, place): each for number, lm in models for place, each in enumerate(lm.fallbacks)}
    return {_key_file(number): lm for number, lm in models} | fallbacks


def _key_file(number: int, fallback: int | None = None) -> str:
    return str(number) if fallback is None else f"{number}-{fallback}"


def _lm(lm: LM, number: int) -> dict[str, Any]:
    found = {
        "parameters": dict(lm.parameters),
        "fallbacks": [_endpoint(each, _key_file(number, place)) for place, each in enumerate(lm.fallbacks)],
        "circuit_breaker": asdict(lm.circuit_breaker) if lm.circuit_breaker else None,
        "hedge": asdict(lm.hedge) if lm.hedge else None,
    }
    return {**_endpoint(lm, _key_file(number)), **_given(found)}


def _endpoint(endpoint: LMEndpoint, key_file: str) -> dict[str, Any]:
    found = {
        "model": endpoint.model,
        "api": endpoint.api,
        "api_base": endpoint.api_base,
        "region": endpoint.region,
        "project": endpoint.project,
        "location": endpoint.location,
        "resource": endpoint.resource,
        "organization": endpoint.organization,
        "headers": dict(endpoint.headers),
        "timeout_seconds": endpoint.timeout_seconds,
        "max_retries": endpoint.max_retries,
        "price": _given(asdict(endpoint.price)) if endpoint.price else None,
        "api_key_file": f"{CREDENTIALS_FOLDER}/{key_file}" if endpoint.credentials.api_key else None,
    }
    return _given(found)


def _guardrail(guardrail: Guardrail) -> dict[str, Any]:
    found = {**asdict(guardrail), "fields": list(guardrail.fields)}
    return {name: value for name, value in _given(found).items() if value != ""}


def _shared(program: Program) -> dict[str, Any]:
    """What is kept between requests, and where."""
    spec, redis = program.spec, program.spec.redis
    credentials = redis.credentials if redis else None
    found = {
        "program": f"{program.namespace}/{program.name}" if redis else None,
        "redis": redis
        and {
            "url": redis.url,
            **({"password_file": f"{CREDENTIALS_FOLDER}/{REDIS_KEY_FILE}"} if credentials else {}),
            **({"username": credentials.username} if credentials and credentials.username else {}),
        },
        "cache": asdict(spec.cache) if spec.cache else None,
        "budget": asdict(spec.budget) if spec.budget else None,
    }
    return _given(found)


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value not in (None, {}, [])}


def _settings_item() -> Manifest:
    return {"path": SETTINGS_FILE, "fieldRef": {"fieldPath": f"metadata.annotations['{SETTINGS_ANNOTATION}']"}}


def _credential_volumes(spec: ProgramSpec) -> list[Manifest]:
    """One volume with all keys."""
    sources = [
        {"secret": {"name": key.name, "items": [{"key": key.key, "path": file}]}} for file, key in _keys(spec).items()
    ]
    return [{"name": "lm-credentials", "projected": {"sources": sources}}] if sources else []


def _credential_mounts(spec: ProgramSpec) -> list[Manifest]:
    mount = {"name": "lm-credentials", "mountPath": CREDENTIALS_FOLDER, "readOnly": True}
    return [mount] if _keys(spec) else []


def _keys(spec: ProgramSpec) -> dict[str, SecretKey]:
    """What pods prove themselves with, by file."""
    keys = {file: endpoint.credentials.api_key for file, endpoint in _endpoints(spec).items()}
    if spec.redis and spec.redis.credentials:
        keys[REDIS_KEY_FILE] = spec.redis.credentials.password
    return {file: key for file, key in keys.items() if key}


def _probe(path: str, period_seconds: int, failures: int) -> Manifest:
    return {
        "httpGet": {"path": path, "port": "probes"},
        "periodSeconds": period_seconds,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }
