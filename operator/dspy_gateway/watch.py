"""What the agent learns from the API server: the port table, the routes, and the endpoints of every revision.

Nothing is published before ConfigMaps and EndpointSlices were both listed once: routes without endpoints would take
traffic from revisions that can answer. What cannot be read, or is deleted by hand, leaves its last good content.
"""

from __future__ import annotations

import asyncio

from dspy_contract.logs import Logger
from dspy_contract.routes import (
    CONTENT_KEY,
    GATEWAY_NAME,
    PORTS_LABEL,
    REVISION_LABEL,
    ROUTES_LABEL,
    RUNTIME_PORT,
    UNREADABLE,
    load_ports,
    load_routes,
    routes_name,
)
from dspy_gateway.agent import Agent
from dspy_gateway.resources import Endpoint
from dspy_kube.client import Kube, Object
from dspy_kube.watch import Watch

log = Logger(__name__)


class Watcher:
    """Follows the namespace's ConfigMaps and EndpointSlices and hands each new state to the agent."""

    def __init__(self, kube: Kube, agent: Agent) -> None:
        self._agent = agent
        self._state = agent.desired
        self._sources: dict[str, str] = {}
        """The uid of each routes ConfigMap, by its name."""
        self._revisions: dict[str, str] = {}
        """The revision of each EndpointSlice, by its name."""
        namespace = agent.settings.namespace
        maps = f"/api/v1/namespaces/{namespace}/configmaps"
        slices = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        self._watches = (
            Watch(kube, maps, PORTS_LABEL, self._put_ports, self._keep_ports, self._settled),
            Watch(kube, maps, ROUTES_LABEL, self._put_routes, self._forget_routes, self._settled),
            Watch(kube, slices, REVISION_LABEL, self._put_slice, self._forget_slice, self._settled),
        )

    async def run(self) -> None:
        """Follows for ever. An API server that does not answer is tried again; what is known stays in force."""
        async with asyncio.TaskGroup() as group:
            for watch in self._watches:
                group.create_task(watch.run())

    async def _settled(self) -> None:
        if all(watch.listed.is_set() for watch in self._watches):
            self._state = self._state.keeping_routes(set(self._sources.values()))
            self._state = self._state.keeping_slices({(revision, name) for name, revision in self._revisions.items()})
            await self._agent.update(self._state)

    def _put_ports(self, item: Object) -> None:
        if item["metadata"]["name"] != GATEWAY_NAME:
            return
        try:
            self._state = self._state.with_ports(load_ports(item["data"][CONTENT_KEY]))
        except UNREADABLE as error:
            log.error("The port table could not be read; the last one stands", error=str(error))

    def _keep_ports(self, namespace: str, name: str, uid: str | None) -> None:
        """A port table that is deleted is written anew by the operator: no port of a living program may move."""

    def _put_routes(self, item: Object) -> None:
        """A program's routes are those of the ConfigMap of its own name; copies of it mean nothing."""
        name = item["metadata"]["name"]
        try:
            routes = load_routes(item["data"][CONTENT_KEY])
        except UNREADABLE as error:
            log.error("Routes could not be read; the last ones stand", name=name, error=str(error))
            return
        if name != routes_name(routes.program):
            log.warning("A copy of routes is ignored", name=name, program=routes.program)
            return
        self._sources[name] = routes.uid
        self._state = self._state.with_routes(routes)

    def _forget_routes(self, namespace: str, name: str, uid: str | None) -> None:
        self._sources.pop(name, None)

    def _put_slice(self, item: Object) -> None:
        name, revision = item["metadata"]["name"], str(item["metadata"]["labels"][REVISION_LABEL])
        self._revisions[name] = revision
        self._state = self._state.with_slice(revision, name, endpoints_of(item))

    def _forget_slice(self, namespace: str, name: str, uid: str | None) -> None:
        self._revisions.pop(name, None)


def endpoints_of(item: Object) -> tuple[Endpoint, ...]:
    """The endpoints of an EndpointSlice. An unknown condition counts as true, as the API says."""
    port = next((port["port"] for port in item.get("ports") or () if port.get("name") == "http"), RUNTIME_PORT)
    found = []
    for endpoint in item.get("endpoints") or ():
        conditions = endpoint.get("conditions") or {}
        ready, serving = conditions.get("ready", True), conditions.get("serving", True)
        found += [Endpoint(address, ready, serving, port) for address in endpoint["addresses"]]
    return tuple(found)
