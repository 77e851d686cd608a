"""Publishes what each program needs to its Envoy, in an order that loses no request.

Level-triggered and by program: a change, or a confirmation by Envoy, makes one program dirty, and the dirty ones take
their next allowed step at most every 20 ms. Endpoints and clusters first; routes once Envoy holds every cluster that
they name; removal once Envoy obeys newer routes.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable

from google.protobuf.json_format import ParseError

from dspy_gateway import xds
from dspy_gateway.resources import ProgramResources

INTERVAL_SECONDS = 0.02
"""The first change after a quiet moment is published at once, those that follow it together after this."""


class Publisher:
    """Keeps a discovery server at what `render` says of each program; None from it withdraws the program."""

    def __init__(
        self,
        discovery: xds.DiscoveryServer,
        listeners: xds.ListenerTemplate,
        render: Callable[[str], ProgramResources | None],
        on_refusal: Callable[[xds.Key, str], None],
    ) -> None:
        self._discovery = discovery
        self._listeners = listeners
        self._render = render
        self._on_refusal = on_refusal
        self._dirty: set[str] = set()
        self._scheduled: asyncio.TimerHandle | None = None
        self._published_at = float("-inf")
        self._clusters: dict[str, set[str]] = defaultdict(set)
        self._users: dict[str, set[str]] = defaultdict(set)

    def mark(self, uids: set[str]) -> None:
        """Makes programs dirty; they are published soon."""
        self._dirty |= uids
        if self._dirty and self._scheduled is None:
            loop = asyncio.get_running_loop()
            due = max(self._published_at + INTERVAL_SECONDS, loop.time())
            self._scheduled = loop.call_at(due, self.publish)

    def publish(self) -> None:
        """Takes the next allowed step of every dirty program."""
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None
        self._published_at = asyncio.get_running_loop().time()
        dirty, self._dirty = self._dirty, set()
        for uid in dirty:
            try:
                self._step(uid)
            except (ParseError, ValueError) as error:  # one program's fault stops no other: its last good stands
                self._on_refusal((xds.ROUTES, uid), str(error))

    def programs_of(self, key: xds.Key) -> set[str]:
        """The programs that a resource belongs to."""
        return self._users.get(key[1], set()) if key[0] in (xds.CLUSTER, xds.ENDPOINTS) else {key[1]}

    def close(self) -> None:
        """Forgets what is due."""
        if self._scheduled is not None:
            self._scheduled.cancel()

    def _step(self, uid: str) -> None:
        resources = self._render(uid)
        if resources is None:
            self._withdraw(uid)
            return
        self._bring(resources)
        if self._routes_settled(resources):
            self._drop(resources.uid, self._clusters[resources.uid] - set(resources.clusters))

    def _bring(self, resources: ProgramResources) -> None:
        """A cluster that loses its last endpoint comes after the routes, which take its traffic away."""
        uid = resources.uid
        for name, resource in resources.endpoints.items():
            if name not in resources.emptied or not self._discovery.has((xds.ENDPOINTS, name)):
                self._discovery.publish(xds.ENDPOINTS, name, resource)
        for name, resource in resources.clusters.items():
            self._clusters[uid].add(name)
            self._users[name].add(uid)
            self._discovery.publish(xds.CLUSTER, name, resource)
        # Routes that no Envoy has been sent wait for nothing: it asks for clusters before it asks for routes.
        unsent = not self._discovery.sent((xds.ROUTES, uid))
        if unsent or all(self._discovery.acked((xds.CLUSTER, name)) for name in resources.clusters):
            self._discovery.publish(xds.ROUTES, uid, resources.routes)
            self._publish_listener(uid, resources.port)
        for name in resources.emptied:
            self._discovery.publish(xds.ENDPOINTS, name, resources.endpoints[name])

    def _publish_listener(self, uid: str, port: int) -> None:
        key, version = (xds.LISTENER, uid), self._listeners.version(port)
        if self._discovery.version(key) != version:
            self._discovery.publish_message(key, version, self._listeners.message(uid, port))

    def _routes_settled(self, resources: ProgramResources) -> bool:
        """True when Envoy obeys the newest routes, or has never asked for any because it refused the listener."""
        key = (xds.ROUTES, resources.uid)
        return self._discovery.confirmed_version(key) == resources.routes.version or not self._discovery.subscribed(key)

    def _withdraw(self, uid: str) -> None:
        self._discovery.withdraw(xds.LISTENER, uid)
        self._discovery.withdraw(xds.ROUTES, uid)
        self._drop(uid, set(self._clusters[uid]))
        del self._clusters[uid]

    def _drop(self, uid: str, names: set[str]) -> None:
        """Removes clusters, unless another program (a successor of the same name) uses them too."""
        for name in names:
            self._clusters[uid].discard(name)
            self._users[name].discard(uid)
            if not self._users[name]:
                del self._users[name]
                self._discovery.withdraw(xds.CLUSTER, name)
                self._discovery.withdraw(xds.ENDPOINTS, name)
