"""What an Envoy should hold, computed from what the agent knows. Pure: desired state in, resources out.

`DesiredState` is all that the agent learns from the cluster, and what it keeps across a restart of its containers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from dspy_contract.routes import RUNTIME_PORT, Backend, PortTable, Routes, effective_weights
from dspy_contract.stat_names import CACHED, FORCED, MIRROR, OTHER, PREDICT, USERS, cluster_name
from dspy_contract.state import FEATURES
from dspy_gateway.envoy.clusters import cluster, endpoints, socket_address
from dspy_gateway.envoy.route_tables import route_table, unavailable


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address of a runtime pod, as an EndpointSlice tells it."""

    address: str
    ready: bool
    serving: bool
    port: int = RUNTIME_PORT


@dataclass(frozen=True, slots=True)
class DesiredState:
    """The port table, the routes by program uid, and the endpoints of each revision by EndpointSlice name."""

    ports: PortTable = field(default_factory=PortTable)
    routes: Mapping[str, Routes] = field(default_factory=dict)
    slices: Mapping[str, Mapping[str, tuple[Endpoint, ...]]] = field(default_factory=dict)

    def with_routes(self, routes: Routes) -> DesiredState:
        """Takes a program's routes, unless they are older than, or contradict, what is stored for the same uid."""
        stored = self.routes.get(routes.uid)
        if stored is not None and routes.serial <= stored.serial:
            return self
        return replace(self, routes={**self.routes, routes.uid: routes})

    def with_ports(self, ports: PortTable) -> DesiredState:
        """Takes the port table."""
        return replace(self, ports=ports)

    def keeping_routes(self, sources: Collection[str]) -> DesiredState:
        """What remains when only these programs (uids) still have a routes ConfigMap.

        A deleted ConfigMap alone ends nothing: while the port table lists the uid as living, its last routes stand.
        """
        living = {uid for uid, port in self.ports.ports.items() if port.freed_at is None}
        kept = {uid: self.routes[uid] for uid in self.routes if uid in sources or uid in living}
        return self if len(kept) == len(self.routes) else replace(self, routes=kept)

    def with_slice(self, revision: str, name: str, endpoints: tuple[Endpoint, ...]) -> DesiredState:
        """Takes one EndpointSlice of a revision; an empty one is forgotten."""
        others = {key: value for key, value in self.slices.get(revision, {}).items() if key != name}
        slices = {**self.slices, revision: {**others, name: endpoints} if endpoints else others}
        return replace(self, slices={key: value for key, value in slices.items() if value})

    def keeping_slices(self, names: Collection[tuple[str, str]]) -> DesiredState:
        """What remains when only these EndpointSlices, by revision and name, still exist."""
        kept = {
            revision: {name: endpoints for name, endpoints in named.items() if (revision, name) in names}
            for revision, named in self.slices.items()
        }
        return replace(self, slices={name: each for name, each in kept.items() if each})

    def usable(self, revision: str) -> tuple[Endpoint, ...]:
        """The endpoints that can answer: the ready ones or, when none is, those that terminate and still serve."""
        known = [endpoint for endpoints in self.slices.get(revision, {}).values() for endpoint in endpoints]
        ready = sorted({endpoint for endpoint in known if endpoint.ready}, key=lambda endpoint: endpoint.address)
        return tuple(
            ready or sorted({endpoint for endpoint in known if endpoint.serving}, key=lambda endpoint: endpoint.address)
        )

    def effective(self, routes: Routes, watched: bool) -> dict[str, int]:
        """The weights to apply for a program now. `watched`: whether the switch of its candidates is renewed."""
        usable = {backend.revision for backend in routes.backends if self.usable(backend.revision)}
        return effective_weights(routes, usable, watched and not set(routes.needs) - set(FEATURES))

    def facts(self, uid: str) -> tuple[Any, ...]:
        """Everything about a program that its resources are made of: equal facts make equal resources."""
        routes = self.routes.get(uid)
        return (
            self.ports.ports.get(uid),
            routes,
            [self.usable(backend.revision) for backend in (routes.backends if routes else ())],
        )


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource for Envoy. The version says whether Envoy holds it already, so it must not change by a restart."""

    version: str
    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ProgramResources:
    """All resources of one program: what must be there first (clusters), then the listener and its routes."""

    uid: str
    clusters: Mapping[str, Resource]
    endpoints: Mapping[str, Resource]
    emptied: frozenset[str]
    """The clusters that have no endpoint."""
    port: int
    routes: Resource


def program_resources(
    desired: DesiredState, uid: str, weights: Mapping[str, int], table: str, pod: str, namespace: str
) -> ProgramResources:
    """The resources of a program that holds a port, drawing by a table (the route's name) with these weights.

    Without routes, its listener answers 503 with the reason.
    """
    port = desired.ports.ports[uid]
    routes = desired.routes.get(uid)
    if routes is None or not routes.backends:
        message = f"The program {port.program} has no version to serve"
        return ProgramResources(uid, {}, {}, frozenset(), port.port, _resource(unavailable(uid, pod, message)))
    clusters, assignments, emptied = {}, {}, set()
    for backend in routes.backends:
        usable = desired.usable(backend.revision)
        for route in _routes_to(backend, routes):
            name = cluster_name(backend.revision, route)
            clusters[name] = _cluster(name)
            assignments[name] = _assignment(name, usable)
            if not usable:
                emptied.add(name)
    drawn = _route_table(routes, tuple(weights.items()), table, pod, namespace)
    table_resource = Resource(f"{routes.serial}:{routes.content}:{table}:{drawn.version}", drawn.content)
    return ProgramResources(uid, clusters, assignments, frozenset(emptied), port.port, table_resource)


def _routes_to(backend: Backend, routes: Routes) -> list[str]:
    """The kinds of requests that may go to a revision: each has a cluster of its own."""
    kinds = {
        FORCED: routes.forced,
        USERS: routes.users is not None or routes.conversations is not None,
        MIRROR: backend.mirror > 0,
        CACHED: routes.cached,
    }
    return [PREDICT, OTHER, *(kind for kind, wanted in kinds.items() if wanted)]


def obeyed(version: str | None) -> tuple[int, str, int]:
    """The serial, the content hash and the table number inside the version of a route table that Envoy confirmed."""
    parts = (version or "").split(":")
    if len(parts) < 4:
        return 0, "", 0
    return int(parts[0]), parts[1], int(parts[2].rpartition("-")[2])


# A program is looked at anew with every answer of Envoy: what was made of the same facts is not made again.


@lru_cache(maxsize=8192)
def _cluster(name: str) -> Resource:
    return _resource(cluster(name))


@lru_cache(maxsize=8192)
def _assignment(name: str, usable: tuple[Endpoint, ...]) -> Resource:
    return _resource(endpoints(name, [socket_address(endpoint.address, endpoint.port) for endpoint in usable]))


@lru_cache(maxsize=2048)
def _route_table(
    routes: Routes, weights: tuple[tuple[str, int], ...], table: str, pod: str, namespace: str
) -> Resource:
    return _resource(route_table(routes, dict(weights), table, pod, namespace))


def _resource(content: Mapping[str, Any]) -> Resource:
    return Resource(hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16], content)
