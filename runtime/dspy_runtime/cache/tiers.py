"""Where answers are kept: first in the pod, then in what all pods share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

from cachetools import TTLCache

from dspy_runtime.cache.entry import Entry, load
from dspy_runtime.metrics import Metrics
from dspy_runtime.settings import CacheSettings
from dspy_runtime.shared_store import SharedStore

MEMORY, REDIS = "memory", "redis"
_FORGOTTEN = "cache-forgotten"
"""When the program's answers were forgotten last, of all revisions (Unix seconds)."""

FORGOTTEN_SECONDS = 61 * 86_400.0
"""Longer than any answer is kept."""

CLAIM_SECONDS, RENEW_SECONDS = 5.0, 1.5
"""How long a claim lasts that nobody renews, and how often it is renewed: that of a pod that is gone ends soon."""

LOOK_AGAIN_SECONDS = (0.02, 0.05, 0.1, 0.2)
"""Between two looks for an answer that another pod is about to have; the last one from then on."""


class Tiers:
    """The answers of one revision. Nobody waits for one to be written."""

    def __init__(self, settings: CacheSettings, revision: str, shared: SharedStore | None, metrics: Metrics) -> None:
        self._settings = settings
        self._revision = revision
        self._shared = shared
        self._metrics = metrics
        self._kept_seconds = settings.ttl_seconds + settings.stale_seconds
        self._memory: TTLCache[str, Entry] = TTLCache(
            settings.max_bytes, self._kept_seconds, getsizeof=lambda entry: entry.size
        )
        self._forgotten_at = 0.0
        """Answers that were begun before are forgotten."""
        self._working: set[asyncio.Task[Any]] = set()

    def is_fresh(self, entry: Entry) -> bool:
        """Whether an entry may be answered as if it were new."""
        return time.time() - entry.begun_at < self._settings.ttl_seconds

    def recall(self, key: str) -> Entry | None:
        """The pod's own answer, fresh or old."""
        entry = self.kept(key)
        self._count(MEMORY, entry)
        return entry

    def kept(self, key: str) -> Entry | None:
        """The same, for whoever does not look for an answer."""
        return self._valid(self._memory.get(key))

    def joined(self) -> None:
        """An answer is given to one who waited for it while it was made for another."""
        self._metrics.record_cache(MEMORY, "joined")

    async def ask(self, key: str) -> Entry | None:
        """The answer that all pods share, fresh or old."""
        if self._shared is None or not self._shared.is_up:
            return None
        read = await self._shared.read(self._name(key), _FORGOTTEN)
        if read is None:
            self._metrics.record_cache(REDIS, "error")
            return None
        entry = self._taken(key, *read)
        self._count(REDIS, entry)
        return entry

    def put(self, key: str, entry: Entry, claim: Claim | None) -> None:
        """Keeps an answer, and then ends the claim to make it."""
        if self._valid(entry) is None:
            self.give_up(claim)
            return
        self._keep(key, entry)
        if self._shared is not None:
            self._in_background(self._share(self._shared, key, entry, claim))

    def give_up(self, claim: Claim | None) -> None:
        """Ends the claim to make an answer: there is none."""
        if claim is not None:
            self._in_background(claim.end())

    async def claim(self, key: str) -> Claim | None:
        """The claim to make an answer over all pods; None where another has it."""
        shared, name = self._shared, self._claim_name(key)
        if shared is None or not shared.is_up:
            return Claim(None, name)
        return None if await shared.claim(name, CLAIM_SECONDS) is False else Claim(shared, name)

    async def await_other(self, key: str, until: float) -> Entry | None:
        """The answer that another pod makes; None when it makes none, or not before a time of time.monotonic."""
        shared, pauses = self._shared, iter(LOOK_AGAIN_SECONDS)
        pause = next(pauses)
        while shared is not None and time.monotonic() + pause < until:
            await asyncio.sleep(pause)
            pause = next(pauses, pause)
            read = await shared.read(self._name(key), _FORGOTTEN, self._claim_name(key))
            if read is None:
                return None
            content, forgotten, claimed = read
            entry = self._taken(key, content, forgotten)
            if entry is not None and self.is_fresh(entry):
                return entry
            if claimed is None:
                return None
        return None

    async def forget(self) -> bool:
        """Forgets all answers that were begun before now, in all pods; False where it is in this one only."""
        self._forgotten_at = max(self._forgotten_at, time.time())
        self._memory.clear()
        if self._shared is None:
            return True
        await self._shared.write(_FORGOTTEN, repr(self._forgotten_at).encode(), FORGOTTEN_SECONDS)
        return self._shared.is_up

    async def aclose(self) -> None:
        """Ends what is being written."""
        if self._working:
            await asyncio.wait(self._working, timeout=1.0)

    async def _share(self, shared: SharedStore, key: str, entry: Entry, claim: Claim | None) -> None:
        await shared.write(self._name(key), entry.dump(), self._kept_seconds)
        if claim is not None:
            await claim.end()

    def _taken(self, key: str, content: bytes | None, forgotten: bytes | None) -> Entry | None:
        """What was read, for this pod's memory as well."""
        self._forgotten_at = max(self._forgotten_at, _seconds(forgotten))
        entry = self._valid(load(content) if content else None)
        if entry is not None:
            self._keep(key, entry)
        return entry

    def _valid(self, entry: Entry | None) -> Entry | None:
        """An entry that is neither forgotten nor too old to be given at all."""
        if entry is None or entry.begun_at <= self._forgotten_at:
            return None
        return entry if time.time() - entry.begun_at < self._kept_seconds else None

    def _keep(self, key: str, entry: Entry) -> None:
        if entry.size > self._settings.max_bytes:
            return
        while len(self._memory) >= self._settings.max_entries and key not in self._memory:
            self._memory.popitem()
        self._memory[key] = entry

    def _count(self, tier: str, entry: Entry | None) -> None:
        self._metrics.record_cache(tier, "hit" if entry is not None and self.is_fresh(entry) else "miss")

    def _name(self, key: str) -> str:
        return f"cache:{self._revision}:{key}"

    def _claim_name(self, key: str) -> str:
        return f"claim:{self._revision}:{key}"

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)


class Claim:
    """That this pod makes an answer. It is renewed until its end."""

    def __init__(self, shared: SharedStore | None, name: str) -> None:
        self._shared = shared
        self._name = name
        self._renewing = asyncio.get_running_loop().create_task(self._renew()) if shared else None

    async def _renew(self) -> None:
        while self._shared is not None:
            await asyncio.sleep(RENEW_SECONDS)
            await self._shared.write(self._name, b"1", CLAIM_SECONDS)

    async def end(self) -> None:
        """Another may make the answer."""
        if self._shared is not None and self._renewing is not None:
            self._renewing.cancel()
            await self._shared.drop(self._name)


def _seconds(content: bytes | None) -> float:
    try:
        return float(content or 0)
    except ValueError:
        return 0.0
