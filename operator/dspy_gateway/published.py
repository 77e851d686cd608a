"""What an Envoy should hold, computed from what the agent knows. Pure: inputs in, resources out.

`Inputs` is all that the agent learns from the cluster, and what it keeps across a restart of its pod's containers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dspy_contract.routes import RUNTIME_PORT, Port, PortTable, Routes, effective_weights
from dspy_gateway import envoy


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address of a runtime pod, as an EndpointSlice tells it."""

    address: str
    ready: bool
    serving: bool
    port: int = RUNTIME_PORT


@dataclass(frozen=True, slots=True)
class Inputs:
    """The port table, the routes by program uid, and the endpoints of each revision by EndpointSlice name."""

    ports: PortTable = field(default_factory=PortTable)
    routes: Mapping[str, Routes] = field(default_factory=dict)
    slices: Mapping[str, Mapping[str, tuple[Endpoint, ...]]] = field(default_factory=dict)

    def with_routes(self, routes: Routes) -> Inputs:
        """Takes a program's routes, unless they are older than what is known for the same uid."""
        known = self.routes.get(routes.uid)
        if known is not None and routes.serial < known.serial:
            return self
        return replace(self, routes={**self.routes, routes.uid: routes})

    def without_routes(self, uid: str) -> Inputs:
        """Forgets a program."""
        return replace(self, routes={key: value for key, value in self.routes.items() if key != uid})

    def with_slice(self, revision: str, name: str, endpoints: tuple[Endpoint, ...]) -> Inputs:
        """Takes one EndpointSlice of a revision; an empty one is forgotten."""
        others = {key: value for key, value in self.slices.get(revision, {}).items() if key != name}
        slices = {**self.slices, revision: {**others, name: endpoints} if endpoints else others}
        return replace(self, slices={key: value for key, value in slices.items() if value})

    def keeping(self, uids: Collection[str], slices: Collection[tuple[str, str]]) -> Inputs:
        """What remains of routes and EndpointSlices (by revision and name) when only these still exist."""
        kept = {
            revision: {name: endpoints for name, endpoints in named.items() if (revision, name) in slices}
            for revision, named in self.slices.items()
        }
        return Inputs(
            self.ports,
            {uid: self.routes[uid] for uid in self.routes if uid in uids},
            {name: each for name, each in kept.items() if each},
        )

    def usable(self, revision: str) -> tuple[Endpoint, ...]:
        """The endpoints that can answer: the ready ones or, when none is, those that terminate and still serve."""
        known = [endpoint for endpoints in self.slices.get(revision, {}).values() for endpoint in endpoints]
        ready = sorted({endpoint for endpoint in known if endpoint.ready}, key=lambda endpoint: endpoint.address)
        return tuple(
            ready or sorted({endpoint for endpoint in known if endpoint.serving}, key=lambda endpoint: endpoint.address)
        )

    def effective(self, routes: Routes) -> dict[str, int]:
        """The weights to apply for a program now."""
        return effective_weights(
            routes, {backend.revision for backend in routes.backends if self.usable(backend.revision)}
        )


@dataclass(frozen=True, slots=True)
class Published:
    """One resource for Envoy. The version says whether Envoy holds it already, so it must not change by a restart."""

    version: str
    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Program:
    """All resources of one program's listener: what must be there first (clusters), then the listener and its
    routes."""

    uid: str
    clusters: Mapping[str, Published]
    endpoints: Mapping[str, Published]
    emptied: frozenset[str]
    """The clusters that have no endpoint."""
    listener: Published
    routes: Published


def program(inputs: Inputs, uid: str, port: Port, pod: str, address: str) -> Program:
    """The resources of the program that holds a port. Without routes, its listener answers 503 with the reason."""
    routes = inputs.routes.get(uid)
    listener = _published(envoy.listener(uid, port.port, address))
    if routes is None or not routes.backends:
        words = f"The program {port.program} has no version to serve"
        return Program(uid, {}, {}, frozenset(), listener, _published(envoy.unavailable(uid, pod, words), "0"))
    clusters, endpoints, emptied = {}, {}, set()
    for backend in routes.backends:
        addresses = [
            envoy.socket_address(endpoint.address, endpoint.port) for endpoint in inputs.usable(backend.revision)
        ]
        for route in envoy.ROUTE_NAMES:
            name = envoy.cluster_name(backend.revision, route)
            clusters[name] = _published(envoy.cluster(name))
            endpoints[name] = _published(envoy.endpoints(name, addresses))
            if not addresses:
                emptied.add(name)
    table = envoy.route_table(routes, inputs.effective(routes), pod)
    return Program(uid, clusters, endpoints, frozenset(emptied), listener, _published(table, str(routes.serial)))


def programs(
    inputs: Inputs, pod: str, address: str, before: Inputs | None = None, known: Mapping[str, Program] | None = None
) -> list[Program]:
    """The resources of every program in the port table; those in `known`, made for `before`, are kept where nothing
    changed."""

    def same(uid: str) -> bool:
        return before is not None and uid in (known or {}) and _facts(before, uid) == _facts(inputs, uid)

    return [
        (known or {})[uid] if same(uid) else program(inputs, uid, port, pod, address)
        for uid, port in inputs.ports.ports.items()
    ]


def _facts(inputs: Inputs, uid: str) -> tuple[Any, ...]:
    """Everything that a program's resources are made of."""
    routes = inputs.routes.get(uid)
    return (
        inputs.ports.ports.get(uid),
        routes,
        [inputs.usable(backend.revision) for backend in (routes.backends if routes else ())],
    )


def serial_of(version: str) -> int:
    """The routes serial inside the version of a route table."""
    return int(version.partition(":")[0])


def removable(held: Collection[str], wanted: Collection[Program], settled: Collection[str]) -> set[str]:
    """The clusters among `held` that no program needs, once every program's newest routes are settled (`settled`:
    uids).

    Waiting for that makes removal a later version than the routes that stopped using the cluster.
    """
    if any(program.uid not in settled for program in wanted):
        return set()
    return set(held) - {name for program in wanted for name in program.clusters}


def _published(content: Mapping[str, Any], prefix: str = "") -> Published:
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    return Published(f"{prefix}:{digest}" if prefix else digest, content)
