"""What the agent learns from the API server: the port table, the routes, and the endpoints of every revision.

Nothing is published before ConfigMaps and EndpointSlices were both listed once: routes without endpoints would take
traffic from revisions that can answer.
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
    PortTable,
    load_ports,
    load_routes,
)
from dspy_gateway.agent import Agent
from dspy_gateway.published import Endpoint, Inputs
from dspy_kube.client import Kube, Object

log = Logger(__name__)


class Watcher:
    """Follows the namespace's ConfigMaps and EndpointSlices and hands each new state to the agent."""

    def __init__(self, kube: Kube, agent: Agent) -> None:
        self._kube = kube
        self._agent = agent
        self._known = agent.inputs
        self._listed: set[str] = set()
        self._uid_of: dict[str, str] = {}

    async def run(self) -> None:
        """Follows for ever. An API server that does not answer is tried again; what is known stays in force."""
        namespace = self._agent.settings.namespace
        async with asyncio.TaskGroup() as group:
            group.create_task(
                self._follow("ports", f"/api/v1/namespaces/{namespace}/configmaps", PORTS_LABEL, self._ports)
            )
            group.create_task(
                self._follow("routes", f"/api/v1/namespaces/{namespace}/configmaps", ROUTES_LABEL, self._routes)
            )
            slices = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
            group.create_task(self._follow("slices", slices, REVISION_LABEL, self._slices))

    async def _follow(self, what: str, path: str, label: str, fold: Callable[[Inputs, str, Object], Inputs]) -> None:
        async for kind, item in self._kube.watch(path, {"labelSelector": label}):
            if kind == "LIST":
                self._known = self._relisted(what, item["items"], fold)
                self._listed.add(what)
            else:
                self._known = fold(self._known, kind, item)
            if len(self._listed) == 3:
                await self._agent.take(self._known)

    def _relisted(self, what: str, items: list[Object], fold: Callable[[Inputs, str, Object], Inputs]) -> Inputs:
        """What is known after a listing: what is listed, over what was known, without what is gone.

        An object that cannot be read keeps its last good content, and a serial never goes back.
        """
        known = self._known
        for each in items:
            known = fold(known, "ADDED", each)
        names = {each["metadata"]["name"] for each in items}
        match what:
            case "routes":
                self._uid_of = {name: uid for name, uid in self._uid_of.items() if name in names}
                there = set(self._uid_of.values())
                # Before the first listing, routes of a snapshot are known by uid only.
                return known.keeping(there, _slices_of(known))
            case "slices":
                there_slices = {
                    (each["metadata"]["labels"][REVISION_LABEL], each["metadata"]["name"]) for each in items
                }
                return known.keeping(known.routes, there_slices)
        return known if items else Inputs(PortTable(), known.routes, known.slices)

    def _ports(self, known: Inputs, kind: str, item: Object) -> Inputs:
        if kind == "DELETED":
            return Inputs(PortTable(), known.routes, known.slices)
        try:
            return Inputs(load_ports(item["data"][CONTENT_KEY]), known.routes, known.slices)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.error("A port table could not be read", name=item["metadata"]["name"], error=repr(error))
            return known

    def _routes(self, known: Inputs, kind: str, item: Object) -> Inputs:
        name = item["metadata"]["name"]
        if kind == "DELETED":
            return known.without_routes(self._uid_of.pop(name, ""))
        try:
            routes = load_routes(item["data"][CONTENT_KEY])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.error("Routes could not be read", name=name, error=repr(error))
            return known
        self._uid_of[name] = routes.uid
        return known.with_routes(routes)

    def _slices(self, known: Inputs, kind: str, item: Object) -> Inputs:
        metadata = item["metadata"]
        endpoints = () if kind == "DELETED" else endpoints_of(item)
        return known.with_slice(metadata["labels"][REVISION_LABEL], metadata["name"], endpoints)


def endpoints_of(item: Object) -> tuple[Endpoint, ...]:
    """The endpoints of an EndpointSlice. An unknown condition counts as true, as the API says."""
    port = next((port["port"] for port in item.get("ports") or () if port.get("name") == "http"), RUNTIME_PORT)
    found = []
    for endpoint in item.get("endpoints") or ():
        conditions = endpoint.get("conditions") or {}
        ready, serving = conditions.get("ready", True), conditions.get("serving", True)
        found += [Endpoint(address, ready, serving, port) for address in endpoint["addresses"]]
    return tuple(found)


def _slices_of(known: Inputs) -> set[tuple[str, str]]:
    return {(revision, name) for revision, named in known.slices.items() for name in named}
