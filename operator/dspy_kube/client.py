"""The Kubernetes API as the agent and the operator use it: paths in, plain dicts out, and a watch that starts again.

Plain dicts pass the official client unchanged; its generated models would refuse fields they do not know.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping
from typing import Any, Self

import aiohttp
import msgspec
from kubernetes.aio import client, config
from kubernetes.aio.client.exceptions import ApiException, ConflictException, NotFoundException

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
__all__ = [
    "APPLY",
    "MERGE",
    "UNREACHABLE",
    "ApiException",
    "ConflictException",
    "Kube",
    "NotFoundException",
    "Object",
    "configuration",
    "is_gone",
]

UNREACHABLE = (aiohttp.ClientError, TimeoutError)
"""What is raised when the API server cannot be reached at all."""

WATCH_SECONDS = 300
SILENCE_SECONDS = 130
"""Bookmarks come every minute, of a busy API server one may be late; a watch that is silent for longer is dead."""

Object = dict[str, Any]


async def configuration() -> client.Configuration:
    """The pod's service account, or the kubeconfig that KUBECONFIG names."""
    result = client.Configuration()
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        config.load_incluster_config(client_configuration=result)
    else:
        await config.load_kube_config(config_file=os.environ.get("KUBECONFIG"), client_configuration=result)
    result.client_session_kwargs = {"trust_env": False}
    return result


class Kube:
    """A connection to one API server. Raises `ApiException` for its refusals and `UNREACHABLE` when it does not
    answer."""

    def __init__(self, connection: client.Configuration, timeout_seconds: float = 30.0) -> None:
        self._api = client.ApiClient(connection)
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds, sock_connect=10)

    @classmethod
    async def connect(cls) -> Self:
        """A client by the pod's service account or the kubeconfig."""
        return cls(await configuration())

    async def close(self) -> None:
        """Closes the connections."""
        await self._api.close()

    async def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: Object | None = None,
        content_type: str | None = None,
    ) -> Object:
        """Sends one request and returns the answer's JSON."""
        response = await self._send(method, path, query, body, content_type, self._timeout)
        raw = await response.read()
        if not 200 <= response.status <= 299:
            _refuse(response, raw)
        try:
            return dict(_decoded(raw)) if raw else {}
        except ValueError as error:
            raise aiohttp.ClientPayloadError(str(error)) from error

    async def changes(
        self, path: str, query: Mapping[str, Any], version: str, seconds: int = WATCH_SECONDS
    ) -> AsyncIterator[tuple[str, Object]]:
        """Yields the changes (type, object) of a collection after a version, for so long at most.

        Bookmarks come as well. Raises GoneError when the version is too old, and what `request` raises.
        """
        parameters = {
            **query,
            "watch": True,
            "allowWatchBookmarks": True,
            "resourceVersion": version,
            "timeoutSeconds": seconds,
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=SILENCE_SECONDS)
        response = await self._send("GET", path, parameters, None, None, timeout)
        try:
            if response.status == 410:
                raise GoneError
            if response.status != 200:
                _refuse(response, await response.read())
            async for line in response.response.content:
                if not line.strip():
                    continue
                kind, item = _event(line)
                if kind == "ERROR":
                    raise GoneError
                yield kind, item
        finally:
            response.response.close()

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        body: Object | None,
        content_type: str | None,
        limit: aiohttp.ClientTimeout,
    ) -> Any:
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = content_type or "application/json"
        arguments = await self._api.param_serialize(
            method,
            path,
            query_params=dict(query or {}),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        return await self._api.call_api(*arguments, _request_timeout=limit)


def is_gone(error: ApiException) -> bool:
    """True when the API server itself says that an object is not there, and not somebody on the way to it."""
    try:
        content = json.loads(error.body or "{}")
    except ValueError:
        return False
    return error.status == 404 and isinstance(content, dict) and content.get("reason") == "NotFound"


def _decoded(raw: bytes) -> Any:
    """JSON as plain objects, in a fraction of the time that the standard library takes: watches bring all that happens.

    Raises ValueError for what is none.
    """
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError as error:
        raise ValueError(f"the API server's answer is no JSON: {error}") from error


def _event(line: bytes) -> tuple[str, Object]:
    """One line of a watch. Raises ValueError for one that is none."""
    event = _decoded(line)
    if not isinstance(event, dict) or not isinstance(event.get("object"), dict) or "type" not in event:
        raise ValueError("a line of a watch is no event")
    return event["type"], event["object"]


class GoneError(Exception):
    """The watch's place in history is gone, or the server ended it with an error: list again."""


def _refuse(response: Any, raw: bytes) -> None:
    ApiException.from_response(http_resp=response, body=raw.decode("utf-8", "replace"), data=None)
