"""What the agent learns from the API server: the port table, the routes, and the endpoints of every revision.

Nothing is published before ConfigMaps and EndpointSlices were both listed once: routes without endpoints would take
traffic from revisions that can answer. What cannot be read, or is deleted by hand, leaves its last good content.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

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
from dspy_kube.store import Name
from dspy_kube.watch import Watch

log = Logger(__name__)


class _Living:
    """The objects of a kind that exist, and what each stands for: `take` reads one and returns it."""

    def __init__(self, take: Callable[[Object], str | None]) -> None:
        self._take = take
        self.meanings: dict[str, str] = {}

    def put(self, item: Object, listed_at: str = "") -> None:
        """Reads an object; one that cannot be read leaves what it was before."""
        meaning = self._take(item)
        if meaning is not None:
            self.meanings[item["metadata"]["name"]] = meaning

    def forget(self, item: Object) -> None:
        """An object went."""
        self.meanings.pop(item["metadata"]["name"], None)

    def retain(self, found: Collection[Name], version: str) -> None:
        """Only these exist."""
        names = {name for _, name in found}
        self.meanings = {name: meaning for name, meaning in self.meanings.items() if name in names}


class Watcher:
    """Follows the namespace's ConfigMaps and EndpointSlices and hands each new state to the agent."""

    def __init__(self, kube: Kube, agent: Agent) -> None:
        self._agent = agent
        self._state = agent.desired
        namespace = agent.settings.namespace
        maps = f"/api/v1/namespaces/{namespace}/configmaps"
        slices = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        self._sources, self._slices = _Living(self._take_routes), _Living(self._take_slice)
        self._watches = tuple(
            Watch(kube, path, {"labelSelector": label}, sink, self._settled)
            for path, label, sink in (
                (maps, PORTS_LABEL, _Living(self._take_ports)),
                (maps, ROUTES_LABEL, self._sources),
                (slices, REVISION_LABEL, self._slices),
            )
        )

    async def run(self) -> None:
        """Follows for ever. An API server that does not answer is tried again; what is known stays in force."""
        async with asyncio.TaskGroup() as group:
            for watch in self._watches:
                group.create_task(watch.run())

    async def _settled(self) -> None:
        if all(watch.listed.is_set() for watch in self._watches):
            self._state = self._state.keeping_routes(set(self._sources.meanings.values()))
            living = {(revision, name) for name, revision in self._slices.meanings.items()}
            self._state = self._state.keeping_slices(living)
            await self._agent.update(self._state)

    def _take_ports(self, item: Object) -> None:
        """A port table that is deleted is written anew by the operator: no port of a living program may move."""
        if item["metadata"]["name"] != GATEWAY_NAME:
            return
        try:
            self._state = self._state.with_ports(load_ports(item["data"][CONTENT_KEY]))
        except UNREADABLE as error:
            log.error("The port table could not be read; the last one stands", error=str(error))

    def _take_routes(self, item: Object) -> str | None:
        """A program's routes are those of the ConfigMap of its own name; copies of it mean nothing."""
        name = item["metadata"]["name"]
        try:
            routes = load_routes(item["data"][CONTENT_KEY])
        except UNREADABLE as error:
            log.error("Routes could not be read; the last ones stand", name=name, error=str(error))
            return None
        if name != routes_name(routes.program):
            log.warning("A copy of routes is ignored", name=name, program=routes.program)
            return None
        self._state = self._state.with_routes(routes)
        return routes.uid

    def _take_slice(self, item: Object) -> str:
        name, revision = item["metadata"]["name"], str(item["metadata"]["labels"][REVISION_LABEL])
        self._state = self._state.with_slice(revision, name, endpoints_of(item))
        return revision


def endpoints_of(item: Object) -> tuple[Endpoint, ...]:
    """The endpoints of an EndpointSlice. An unknown condition counts as true, as the API says."""
    port = next((port["port"] for port in item.get("ports") or () if port.get("name") == "http"), RUNTIME_PORT)
    found = []
    for endpoint in item.get("endpoints") or ():
        conditions = endpoint.get("conditions") or {}
        ready, serving = conditions.get("ready", True), conditions.get("serving", True)
        found += [Endpoint(address, ready, serving, port) for address in endpoint["addresses"]]
    return tuple(found)
