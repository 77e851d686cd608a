"""Every kopf decorator: the two custom resources are watched, and what is heard goes into the store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kopf
from kubernetes.aio import client

from dspy_kube.client import Object
from dspy_operator.api.names import GROUP, PROGRAMS, ROLLOUTS, VERSION

Take = Callable[[str, str | None, Object], None]
"""Kind, type of the event (None while listing), object."""


def registry(take: Take, login: Callable[[], Any]) -> kopf.OperatorRegistry:
    """The handlers. `take` hears every event; `login` reads the connection anew."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers, retries=3, backoff=2)
    async def connect(settings: kopf.OperatorSettings, **_: Any) -> kopf.ConnectionInfo:
        return await _connection(await login(), settings)

    @kopf.on.event(GROUP, VERSION, PROGRAMS, registry=handlers)
    async def program(event: kopf.RawEvent, **_: Any) -> None:
        take("DSPyProgram", event["type"], dict(event["object"]))

    @kopf.on.event(GROUP, VERSION, ROLLOUTS, registry=handlers)
    async def rollout(event: kopf.RawEvent, **_: Any) -> None:
        take("DSPyRollout", event["type"], dict(event["object"]))

    return handlers


def settings(watch_seconds: int = 300) -> kopf.OperatorSettings:
    """kopf as a layer that watches: no events, no finalizers, no peering, no scanning."""
    result = kopf.OperatorSettings()
    result.persistence.diffbase_storage = _NoDifferences()
    # A task for each of ten thousand objects at once would leave the loop's other work, the Lease's, waiting.
    result.queueing.worker_limit = 32
    result.queueing.idle_timeout = 0.01
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


class _NoDifferences(kopf.DiffBaseStorage):
    """Compares no objects: no handler asks what has changed, and copying each for it costs more than all else."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        """Nothing of an object."""
        return kopf.BodyEssence({})

    def fetch(self, **_: Any) -> None:
        """Nothing is stored."""

    def store(self, **_: Any) -> None:
        """Likewise."""


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
