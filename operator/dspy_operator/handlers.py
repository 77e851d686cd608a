"""Every kopf decorator: which objects are watched and which key each of their events wakes. Nothing is decided here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import kopf
from kubernetes.aio import client

from dspy_contract.routes import PROGRAM_LABEL
from dspy_operator.api.names import FIELD_MANAGER, GATEWAY_LABEL, GROUP, MANAGED_BY_LABEL, PROGRAMS, ROLLOUTS, VERSION
from dspy_operator.workqueue import Key

Add = Callable[[Key], None]

CHILDREN = (
    ("apps", "v1", "deployments"),
    ("apps", "v1", "controllerrevisions"),
    ("v1", "services"),
    ("v1", "configmaps"),
    ("v1", "pods"),
)
"""Kinds of which only our own objects are watched."""

GATEWAY_KINDS = frozenset({"deployments", "configmaps", "services"})
"""Kinds whose events wake the gateway of their namespace."""


def registry(add: Add, login: Callable[[], Any]) -> kopf.OperatorRegistry:
    """The handlers. `add` queues a key; `login` reads the connection anew."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers, retries=3, backoff=2)
    async def connect(settings: kopf.OperatorSettings, **_: Any) -> kopf.ConnectionInfo:
        return await _connection(await login(), settings)

    for group in ((GROUP, VERSION, PROGRAMS), (GROUP, VERSION, ROLLOUTS), *CHILDREN):
        _watch(handlers, group, add)
    return handlers


def keys_of(resource: str, body: Mapping[str, Any]) -> list[Key]:
    """The keys that an event of an object wakes."""
    metadata = body["metadata"]
    namespace, labels = metadata["namespace"], metadata.get("labels", {})
    if resource == PROGRAMS:
        return [Key("program", namespace, metadata["name"]), Key("gateway", namespace)]
    if resource == ROLLOUTS:
        return [Key("program", namespace, body["spec"]["programRef"]["name"])]
    if PROGRAM_LABEL in labels:
        return [Key("program", namespace, labels[PROGRAM_LABEL])]
    return [Key("gateway", namespace)] if GATEWAY_LABEL in labels and resource in GATEWAY_KINDS else []


def settings(watch_seconds: int = 300) -> kopf.OperatorSettings:
    """kopf as a layer that watches: no events, no finalizers, no peering, no scanning."""
    result = kopf.OperatorSettings()
    for group in CHILDREN:
        result.watching.label_selectors[group] = f"{MANAGED_BY_LABEL}={FIELD_MANAGER}"
    result.queueing.idle_timeout = 0.1
    result.watching.server_timeout = watch_seconds
    result.watching.client_timeout = watch_seconds + 30
    result.watching.connect_timeout = 10
    result.watching.chunk_size = 500
    result.networking.request_timeout = 30
    result.networking.connect_timeout = 10
    result.posting.enabled = False
    result.scanning.disabled = True
    result.peering.standalone = True
    result.process.ultimate_exiting_timeout = 25
    return result


def _watch(handlers: kopf.OperatorRegistry, group: tuple[str, ...], add: Add) -> None:
    @kopf.on.event(*group, id=group[-1], registry=handlers)
    async def event(body: kopf.Body, **_: Any) -> None:
        for key in keys_of(group[-1], body):
            add(key)


async def _connection(configuration: client.Configuration, settings: kopf.OperatorSettings) -> kopf.ConnectionInfo:
    scheme, _, token = (await configuration.get_api_key_with_prefix("BearerToken") or "").partition(" ")
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        scheme=(scheme or None) if token else None,
        token=token.strip() or None,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        trust_env=settings.networking.trust_env,
    )
