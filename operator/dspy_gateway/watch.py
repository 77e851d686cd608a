"""What the agent learns from the API server: the port table, the routes, and the endpoints of every revision.

Nothing is published before ConfigMaps and EndpointSlices were both listed once: routes without endpoints would take
traffic from revisions that can answer. What cannot be read, or is deleted by hand, leaves its last good content.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dspy_contract.logs import Logger
from dspy_contract.routes import (
    CONTENT_KEY,
    PORTS_LABEL,
    REVISION_LABEL,
    ROUTES_LABEL,
    RUNTIME_PORT,
    UNREADABLE,
    load_ports,
    load_routes,
)
from dspy_gateway.agent import Agent
from dspy_gateway.resources import Endpoint
from dspy_kube.client import Kube, Object

PORTS_NAME = "dspy-gateway"
log = Logger(__name__)


class Watcher:
    """Follows the namespace's ConfigMaps and EndpointSlices and hands each new state to the agent."""

    def __init__(self, kube: Kube, agent: Agent) -> None:
        self._kube = kube
        self._agent = agent
        self._state = agent.desired
        self._waiting_for = {"ports", "routes", "slices"}
        self._sources: dict[str, str] = {}
        """The uid of each routes ConfigMap, by its name."""

    async def run(self) -> None:
        """Follows for ever. An API server that does not answer is tried again; what is known stays in force."""
        namespace = self._agent.settings.namespace
        maps = f"/api/v1/namespaces/{namespace}/configmaps"
        slices = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow("ports", maps, PORTS_LABEL, self._ports))
            group.create_task(self._follow("routes", maps, ROUTES_LABEL, self._routes))
            group.create_task(self._follow("slices", slices, REVISION_LABEL, self._slices))

    async def _follow(self, what: str, path: str, label: str, take: Callable[[str, Object], None]) -> None:
        async for kind, item in self._kube.watch(path, {"labelSelector": label}):
            if kind == "LIST":
                self._relist(what, item["items"], take)
                self._waiting_for.discard(what)
            else:
                take(kind, item)
            self._state = self._state.keeping_routes(set(self._sources.values()))
            if not self._waiting_for:
                await self._agent.update(self._state)

    def _relist(self, what: str, items: list[Object], take: Callable[[str, Object], None]) -> None:
        """Takes what is listed, and forgets what is gone."""
        names = {item["metadata"]["name"] for item in items}
        if what == "routes":
            self._sources = {name: uid for name, uid in self._sources.items() if name in names}
        if what == "slices":
            self._state = self._state.keeping_slices({(_revision(item), item["metadata"]["name"]) for item in items})
        for item in items:
            take("ADDED", item)

    def _ports(self, kind: str, item: Object) -> None:
        """A port table that is deleted is written anew by the operator: no port of a living program may move."""
        if kind == "DELETED" or item["metadata"]["name"] != PORTS_NAME:
            return
        try:
            self._state = self._state.with_ports(load_ports(item["data"][CONTENT_KEY]))
        except UNREADABLE as error:
            log.error("The port table could not be read; the last one stands", error=str(error))

    def _routes(self, kind: str, item: Object) -> None:
        """A program's routes are those of the ConfigMap of its own name; copies of it mean nothing."""
        name = item["metadata"]["name"]
        if kind == "DELETED":
            self._sources.pop(name, None)
            return
        try:
            routes = load_routes(item["data"][CONTENT_KEY])
        except UNREADABLE as error:
            log.error("Routes could not be read; the last ones stand", name=name, error=str(error))
            return
        if name != f"{routes.program}-routes":
            log.warning("A copy of routes is ignored", name=name, program=routes.program)
            return
        self._sources[name] = routes.uid
        self._state = self._state.with_routes(routes)

    def _slices(self, kind: str, item: Object) -> None:
        endpoints = () if kind == "DELETED" else endpoints_of(item)
        self._state = self._state.with_slice(_revision(item), item["metadata"]["name"], endpoints)


def _revision(item: Object) -> str:
    return str(item["metadata"]["labels"][REVISION_LABEL])


def endpoints_of(item: Object) -> tuple[Endpoint, ...]:
    """The endpoints of an EndpointSlice. An unknown condition counts as true, as the API says."""
    port = next((port["port"] for port in item.get("ports") or () if port.get("name") == "http"), RUNTIME_PORT)
    found = []
    for endpoint in item.get("endpoints") or ():
        conditions = endpoint.get("conditions") or {}
        ready, serving = conditions.get("ready", True), conditions.get("serving", True)
        found += [Endpoint(address, ready, serving, port) for address in endpoint["addresses"]]
    return tuple(found)
