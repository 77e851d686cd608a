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
_GENERATION = "generation"
GENERATION_SECONDS = 400 * 86_400.0
"""For how long it is known how often the answers were forgotten: longer than any of them lasts."""

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
        self._generation = b""
        self.forgotten = 0
        """How often this pod was told to forget all answers."""
        self._writing: set[asyncio.Task[Any]] = set()

    def is_fresh(self, entry: Entry) -> bool:
        """Whether an entry may be answered as if it were new."""
        return time.time() - entry.kept_at < self._settings.ttl_seconds

    def recall(self, key: str) -> Entry | None:
        """The pod's own answer, of whatever age."""
        entry = self._memory.get(key)
        self._metrics.record_cache(MEMORY, _result(entry is not None and self.is_fresh(entry)))
        return entry

    async def ask(self, key: str) -> Entry | None:
        """The answer that all pods share, of whatever age."""
        if self._shared is None or not self._shared.is_up:
            return None
        read = await self._shared.read(self._name(key), self._name(_GENERATION))
        if read is None:
            self._metrics.record_cache(REDIS, "error")
            return None
        entry = self._of_now(*read)
        self._metrics.record_cache(REDIS, _result(entry is not None and self.is_fresh(entry)))
        if entry is not None:
            self._keep(key, entry)
        return entry

    def _of_now(self, content: bytes | None, generation: bytes | None) -> Entry | None:
        """What was read, unless it was kept before the answers were forgotten."""
        self._generation = generation or b"0"
        kept_in, found, dumped = (content or b"").partition(b"\n")
        return load(dumped) if found and kept_in == self._generation else None

    def put(self, key: str, entry: Entry, forgotten: int) -> None:
        """Keeps an answer that was begun when answers had been `forgotten` so often."""
        if forgotten != self.forgotten:
            self.release(key)
            return
        self._keep(key, entry)
        if self._shared is not None:
            self._in_background(self._share(self._shared, key, entry))

    async def _share(self, shared: SharedStore, key: str, entry: Entry) -> None:
        if not self._generation:
            self._of_now(None, *(await shared.read(self._name(_GENERATION)) or [None]))
        content = self._generation + b"\n" + entry.dump()
        await shared.write(self._name(key), content, self._kept_seconds)
        await shared.drop(self._claim(key))

    def _keep(self, key: str, entry: Entry) -> None:
        if entry.size > self._settings.max_bytes:
            return
        while len(self._memory) >= self._settings.max_entries and key not in self._memory:
            self._memory.popitem()
        self._memory[key] = entry

    async def claim(self, key: str, seconds: float) -> bool:
        """Whether this pod is to make the answer, and no other within so many seconds."""
        return self._shared is None or await self._shared.claim(self._claim(key), seconds) is not False

    def release(self, key: str) -> None:
        """This pod has made the answer, or makes none."""
        if self._shared is not None:
            self._in_background(self._shared.drop(self._claim(key)))

    async def await_other(self, key: str, seconds: float) -> Entry | None:
        """The answer that another pod makes; None when it makes none within so many seconds."""
        shared, until = self._shared, time.monotonic() + seconds
        pauses = iter(LOOK_AGAIN_SECONDS)
        pause = next(pauses)
        while shared is not None and time.monotonic() + pause < until:
            await asyncio.sleep(pause)
            pause = next(pauses, pause)
            read = await shared.read(self._name(key), self._name(_GENERATION), self._claim(key))
            if read is None:
                return None
            content, generation, claimed = read
            entry = self._of_now(content, generation)
            if entry is not None and self.is_fresh(entry):
                self._keep(key, entry)
                return entry
            if claimed is None:
                return None
        return None

    async def forget(self) -> bool:
        """Forgets all answers of the revision; False where only this pod's are."""
        self.forgotten += 1
        self._memory.clear()
        if self._shared is None:
            return True
        generation = await self._shared.add(self._name(_GENERATION), 1, GENERATION_SECONDS)
        self._generation = b"" if generation is None else str(generation).encode()
        return generation is not None

    async def aclose(self) -> None:
        """Ends what is being written."""
        if self._writing:
            await asyncio.wait(self._writing, timeout=1.0)

    def _name(self, key: str) -> str:
        return f"cache:{self._revision}:{key}"

    def _claim(self, key: str) -> str:
        return f"claim:{self._revision}:{key}"

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)


def _result(is_hit: bool) -> str:
    return "hit" if is_hit else "miss"
