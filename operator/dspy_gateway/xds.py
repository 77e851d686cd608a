"""The agent's xDS server: delta ADS over a unix socket, for the one Envoy of its pod.

One resource per response, so that an ACK confirms that resource and a NACK names it. Two habits of Envoy shape this: a
changed cluster warms until its endpoints are sent again, and by-name subscriptions must always be answered.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from typing import Any

import grpc.aio
from envoy.config.accesslog.v3 import accesslog_pb2  # noqa: F401 registers the type for ParseDict
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.access_loggers.grpc.v3 import als_pb2  # noqa: F401
from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2  # noqa: F401
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2  # noqa: F401
from envoy.service.accesslog.v3 import als_pb2_grpc
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.protobuf import any_pb2, json_format
from xds.type.v3 import typed_struct_pb2  # noqa: F401

from dspy_gateway.access_log import AccessLogServer
from dspy_gateway.envoy.resource import TYPE
from dspy_gateway.resources import Resource

CLUSTER = f"{TYPE}envoy.config.cluster.v3.Cluster"
ENDPOINTS = f"{TYPE}envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER = f"{TYPE}envoy.config.listener.v3.Listener"
ROUTES = f"{TYPE}envoy.config.route.v3.RouteConfiguration"
MESSAGES: Mapping[str, Any] = {
    CLUSTER: cluster_pb2.Cluster,
    ENDPOINTS: endpoint_pb2.ClusterLoadAssignment,
    LISTENER: listener_pb2.Listener,
    ROUTES: route_pb2.RouteConfiguration,
}
WILDCARD = frozenset({CLUSTER, LISTENER})

Key = tuple[str, str]
"""A resource's type URL and name."""


class Stream:
    """One connection of Envoy: what it subscribed to, what was sent, and what it confirmed."""

    def __init__(self) -> None:
        self.outgoing: asyncio.Queue[Any] = asyncio.Queue()
        self.subscribed: dict[str, set[str]] = {}
        self.held: dict[Key, str] = {}
        self.sent: dict[Key, str | None] = {}
        self.awaited: dict[str, tuple[Key, str | None]] = {}
        self._nonces = itertools.count(1)

    def wants(self, key: Key) -> bool:
        """True when Envoy subscribed to the resource."""
        names = self.subscribed.get(key[0], set())
        return key[1] in names or "*" in names

    def push(self, key: Key, version: str | None, resource: any_pb2.Any | None) -> None:
        """Sends a resource, or its removal when there is none."""
        nonce = str(next(self._nonces))
        self.sent[key] = version
        self.awaited[nonce] = (key, version)
        response = discovery_pb2.DeltaDiscoveryResponse(
            type_url=key[0], nonce=nonce, system_version_info=version or "-"
        )
        if resource is None:
            response.removed_resources.append(key[1])
        else:
            response.resources.append(discovery_pb2.Resource(name=key[1], version=version or "", resource=resource))
        self.outgoing.put_nowait(response)


class DiscoveryServer(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc]
    """Holds what is published and tells every connected Envoy; calls `on_change` with the resources that a request
    answers or subscribes to, and with None (all of them) whenever an Envoy comes or goes."""

    def __init__(
        self,
        on_change: Callable[[Collection[Key] | None], None],
        on_refusal: Callable[[Key, str], None],
        on_new_envoy: Callable[[], None],
    ) -> None:
        self.published: dict[Key, tuple[str, any_pb2.Any]] = {}
        self._streams: set[Stream] = set()
        self._on_change = on_change
        self._on_refusal = on_refusal
        self._on_new_envoy = on_new_envoy

    @property
    def connected(self) -> bool:
        """True while an Envoy is connected."""
        return bool(self._streams)

    def acked(self, key: Key) -> bool:
        """True when every connected Envoy has confirmed the published version of the resource."""
        published = self.published.get(key)
        return published is not None and self.connected and self.confirmed_version(key) == published[0]

    def confirmed_version(self, key: Key) -> str | None:
        """The version that Envoy confirmed last; None when it has none, or no Envoy is connected."""
        versions = {stream.held.get(key) for stream in self._streams}
        return versions.pop() if len(versions) == 1 else None

    def publish(self, type_url: str, name: str, resource: Resource) -> None:
        """Publishes a resource unless this version is published already. Raises ParseError for what is no message."""
        key = (type_url, name)
        if key not in self.published or self.published[key][0] != resource.version:
            self.publish_message(
                key, resource.version, json_format.ParseDict(dict(resource.content), MESSAGES[type_url]())
            )

    def publish_message(self, key: Key, version: str, message: Any) -> None:
        """Publishes a message under a version that is not published yet."""
        packed = any_pb2.Any(type_url=key[0], value=message.SerializeToString(deterministic=True))
        self.published[key] = (version, packed)
        for stream in self._streams:
            if stream.wants(key) and stream.sent.get(key) != version:
                self._send(stream, key)

    def version(self, key: Key) -> str | None:
        """The published version of a resource; None when it is not published."""
        published = self.published.get(key)
        return published[0] if published else None

    def withdraw(self, type_url: str, name: str) -> None:
        """Removes a resource."""
        key = (type_url, name)
        if self.published.pop(key, None) is not None:
            for stream in self._streams:
                if stream.wants(key):
                    stream.push(key, None, None)

    def has(self, key: Key) -> bool:
        """True when the resource is published."""
        return key in self.published

    def sent(self, key: Key) -> bool:
        """True when some connected Envoy has been sent the resource."""
        return any(key in stream.sent for stream in self._streams)

    def subscribed(self, key: Key) -> bool:
        """True unless an Envoy is connected and none has subscribed to the resource."""
        return not self._streams or any(stream.wants(key) for stream in self._streams)

    def names(self, type_url: str) -> set[str]:
        """The names of the published resources of one type."""
        return {name for kind, name in self.published if kind == type_url}

    async def DeltaAggregatedResources(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:  # noqa: N802 the name is xDS's
        """Serves one Envoy until it goes."""
        stream = Stream()
        self._streams.add(stream)
        self._on_change(None)

        async def read() -> None:
            try:
                async for request in requests:
                    self._receive(stream, request)
            finally:
                stream.outgoing.put_nowait(None)

        reader = asyncio.create_task(read())
        try:
            while (response := await stream.outgoing.get()) is not None:
                yield response
        finally:
            self._streams.discard(stream)
            reader.cancel()
            self._on_change(None)

    def _send(self, stream: Stream, key: Key) -> None:
        stream.push(key, *self.published[key])
        assignment = (ENDPOINTS, key[1])
        if key[0] == CLUSTER and assignment in self.published and stream.wants(assignment):
            stream.push(assignment, *self.published[assignment])

    def _receive(self, stream: Stream, request: Any) -> None:
        first = not stream.subscribed
        answered = self._confirm(stream, request) if request.response_nonce else None
        for name, version in request.initial_resource_versions.items():
            stream.held[request.type_url, name] = stream.sent[request.type_url, name] = version
        if first and not request.initial_resource_versions:
            self._on_new_envoy()
        self._subscribe(stream, request)
        kind = request.type_url
        named = {(kind, name) for name in (*request.resource_names_subscribe, *request.resource_names_unsubscribe)}
        self._on_change(named | ({answered} if answered else set()))

    def _confirm(self, stream: Stream, request: Any) -> Key | None:
        awaited = stream.awaited.pop(request.response_nonce, None)
        if awaited is None:
            return None
        key, version = awaited
        if request.HasField("error_detail"):
            self._on_refusal(key, request.error_detail.message)
        elif version is None:
            stream.held.pop(key, None)
        else:
            stream.held[key] = version
        return key

    def _subscribe(self, stream: Stream, request: Any) -> None:
        kind = request.type_url
        added = set(request.resource_names_subscribe)
        if kind not in stream.subscribed and kind in WILDCARD and not added:
            added = {"*"}
        names = stream.subscribed.setdefault(kind, set())
        names |= added
        for name in request.resource_names_unsubscribe:
            names.discard(name)
            stream.held.pop((kind, name), None)
            stream.sent.pop((kind, name), None)
        wanted = self.names(kind) | set(request.initial_resource_versions) if "*" in added else added
        for key in sorted((kind, name) for name in wanted):
            if key not in self.published:
                if key in stream.sent:
                    stream.push(key, None, None)
            elif kind not in WILDCARD or stream.sent.get(key) != self.published[key][0]:
                self._send(stream, key)


class ListenerTemplate:
    """Listeners that differ in name, port and routes only: parsed once, since one takes longer than all the rest."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._listener = json_format.ParseDict(dict(content), listener_pb2.Listener())
        self._manager = http_connection_manager_pb2.HttpConnectionManager()
        self._config.Unpack(self._manager)
        self._version = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def _config(self) -> Any:
        return self._listener.filter_chains[0].filters[0].typed_config

    def version(self, port: int) -> str:
        """The version of a listener on this port."""
        return f"{self._version}-{port}"

    def message(self, name: str, port: int) -> Any:
        """A listener's message."""
        self._manager.rds.route_config_name = name
        self._config.Pack(self._manager, deterministic=True)
        self._listener.name = name
        self._listener.address.socket_address.port_value = port
        return self._listener


async def serve(path: str, discovery: DiscoveryServer, logs: AccessLogServer) -> grpc.aio.Server:
    """Binds the socket of everything that Envoy asks and tells. Call it only when everything known is published: Envoy
    drops whatever a server does not list."""
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 64 << 20)])
    ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(discovery, server)
    als_pb2_grpc.add_AccessLogServiceServicer_to_server(logs, server)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    return server
