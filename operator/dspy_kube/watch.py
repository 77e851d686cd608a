"""List and watch: one task a kind, by label, paged, that starts again whenever the watch is lost.

A relist also tells what is gone. Every watch knows the age of its last sign of life; whoever runs it ends the process
when that is too long ago, since a watch that is silent without dying cannot be told from a quiet cluster.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Protocol

from dspy_contract.logs import Logger
from dspy_kube.client import UNREACHABLE, WATCH_SECONDS, ApiException, GoneError, Kube, Object
from dspy_kube.store import Name

PAGE = 500
RETRY_SECONDS, LONGEST_RETRY_SECONDS = 0.5, 10.0
"""Between two listings while watches fail: doubled each time, and spread, so that a server that recovers is not met by
all of them at once."""

SHORT_WATCH_SECONDS = 55
"""How long a stream without bookmarks lasts: less than the silence that means a dead one."""

LOST = (ApiException, ValueError, KeyError, TypeError, RecursionError, *UNREACHABLE)
"""What ends a listing or a watch that is begun again: a refusal, a broken connection, an answer of another form."""

log = Logger(__name__)


class HistoryError(Exception):
    """The API server's history has become another, as after a restore of etcd: what is held in memory means nothing."""


class Sink(Protocol):
    """Who hears what a watch learns."""

    def put(self, item: Object, listed_at: str = "") -> None:
        """Takes an object that has changed, or that a listing of that version found."""

    def forget(self, item: Object) -> None:
        """Takes the last state of an object that went."""

    def retain(self, found: Collection[Name], version: str) -> None:
        """A listing is complete: at that version there was nothing that it did not find."""


class Watch:
    """Follows one collection, by a query of selectors, and tells a sink; `settled` is awaited after each listing and
    each change."""

    def __init__(
        self,
        kube: Kube,
        path: str,
        query: Mapping[str, str],
        sink: Sink,
        settled: Callable[[], Awaitable[None]] | None = None,
        bookmarks: bool = True,
    ) -> None:
        """`bookmarks` is false for kinds of which the API server sends none, such as events."""
        self._kube = kube
        self._path = path
        self._query = query
        self._sink = sink
        self._settled = settled
        self._seconds = WATCH_SECONDS if bookmarks else SHORT_WATCH_SECONDS
        self._newest = 0
        self.listed = asyncio.Event()
        self.heard_at = 0.0
        """When a stream last told anything, or ended as it should, by the loop's clock."""

    async def run(self) -> None:
        """Follows for ever. Raises HistoryError when the API server's history has become another."""
        failures = 0
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await self._follow(await self.list())
            except GoneError:
                pass
            except LOST as error:
                log.warning("A watch was lost and begins again", path=self._path, error=type(error).__name__)
            failures = 0 if loop.time() - began > LONGEST_RETRY_SECONDS else failures + 1
            longest = min(RETRY_SECONDS * 2.0 ** min(failures, 10), LONGEST_RETRY_SECONDS)
            await asyncio.sleep(longest * random.uniform(0.5, 1.0))

    async def _follow(self, version: str) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            async for kind, item in self._kube.changes(self._path, self._query, version, self._seconds):
                version = item["metadata"]["resourceVersion"]
                self._hear(version)
                self._take(kind, item)
                if self._settled and kind != "BOOKMARK":
                    await self._settled()
            self._hear(version)
            if loop.time() - began < RETRY_SECONDS:
                await asyncio.sleep(RETRY_SECONDS)

    async def list(self) -> str:
        """Lists everything once, and returns the place in history. Raises what the API answers, and HistoryError."""
        found: set[Name] = set()
        query: Mapping[str, object] = {**self._query, "limit": PAGE}
        while True:
            page = await self._kube.request("GET", self._path, query)
            version = str(page["metadata"]["resourceVersion"])
            if version.isdigit() and int(version) < self._newest:
                raise HistoryError(f"{self._path} is at {version} and was at {self._newest}: etcd was restored")
            for item in page["items"]:
                # Of built-in kinds the API server says these once a page, and else in each object.
                item.setdefault("apiVersion", page["apiVersion"])
                item.setdefault("kind", page["kind"].removesuffix("List"))
                found.add((item["metadata"]["namespace"], item["metadata"]["name"]))
                self._sink.put(item, version)
            token = page["metadata"].get("continue")
            if not token:
                break
            query = {**self._query, "limit": PAGE, "continue": token}
        self._hear(version)
        self._sink.retain(found, version)
        self.listed.set()
        if self._settled:
            await self._settled()
        return version

    def _take(self, kind: str, item: Object) -> None:
        if kind == "DELETED":
            self._sink.forget(item)
        elif kind != "BOOKMARK":
            self._sink.put(item)

    def _hear(self, version: str) -> None:
        self.heard_at = asyncio.get_running_loop().time()
        self._newest = max(self._newest, int(version) if version.isdigit() else 0)
