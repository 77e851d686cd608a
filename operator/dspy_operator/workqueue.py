"""The work queue: keys that are de-duplicated, worked on one at a time each, delayed, and tried again with backoff."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from prometheus_client import Counter, Gauge, Histogram

from dspy_operator.errors import RetryError

FIRST_BACKOFF_SECONDS = 0.2
SOONEST_RETRY_SECONDS = 1.0  # news of a key that failed brings its next try forward to this, and no closer
LONGEST_BACKOFF_SECONDS = 30.0
TURN_SECONDS = 0.01
"""How long passes that wait for nothing may keep the loop."""

DEPTH = Gauge("dspy_operator_queue_depth", "Keys that wait to be worked on.", ["queue"])
LATENCY = Histogram(
    "dspy_operator_queue_latency_seconds",
    "Time between a key's due time and its work.",
    ["queue"],
    buckets=(0.001, 0.01, 0.1, 1, 10),
)
RETRIES = Counter("dspy_operator_queue_retries", "Passes that failed and are tried again.", ["kind"])


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """What is worked on: `program` or `guard` with a program's name, or `gateway` of a namespace."""

    kind: str
    namespace: str
    name: str = ""


class WorkQueue:
    """Runs `work(key)` for every key that was added; a key added while it runs, runs once more afterwards."""

    def __init__(
        self,
        name: str,
        work: Callable[[Key], Awaitable[float | None]],
        longest_backoff_seconds: float = LONGEST_BACKOFF_SECONDS,
    ) -> None:
        self._longest_backoff_seconds = longest_backoff_seconds
        self._depth, self._latency = DEPTH.labels(name), LATENCY.labels(name)
        self._work = work
        self._ready: asyncio.Queue[tuple[Key, float]] = asyncio.Queue()
        self._queued: set[Key] = set()
        self._running: set[Key] = set()
        self._again: set[Key] = set()
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, int] = {}
        self._turn_at = 0.0

    def add(self, key: Key) -> None:
        """Queues a key, unless it is queued already. One that failed waits its backoff, though at most a second."""
        if key in self._failures and key in self._timers:
            self.add_after(key, SOONEST_RETRY_SECONDS)
            return
        self._cancel_timer(key)
        if key in self._running:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._ready.put_nowait((key, asyncio.get_running_loop().time()))
            self._depth.set(len(self._queued))

    def add_after(self, key: Key, delay_seconds: float) -> None:
        """Queues a key later; an earlier timer of the same key stays."""
        loop = asyncio.get_running_loop()
        known = self._timers.get(key)
        if known is not None and known.when() <= loop.time() + delay_seconds:
            return
        self._cancel_timer(key)
        self._timers[key] = loop.call_later(delay_seconds, self._due, key)

    async def run(self, workers: int) -> None:
        """Works for ever with that many keys at once."""
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._worker())

    async def _worker(self) -> None:
        # Asked before each key: a gather that fails while it is cancelled swallows the cancellation.
        while not _is_cancelled():
            key, due = await self._next()
            self._queued.discard(key)
            self._depth.set(len(self._queued))
            self._latency.observe(asyncio.get_running_loop().time() - due)
            self._running.add(key)
            try:
                delay = await self._work(key)
                self._failures.pop(key, None)
            except RetryError as error:
                backoff = self._backoff(key)
                delay = backoff if error.within_seconds is None else min(backoff, error.within_seconds)
            finally:
                self._running.discard(key)
            if delay is not None:
                self.add_after(key, delay)
            if key in self._again:
                self._again.discard(key)
                self.add(key)

    async def _next(self) -> tuple[Key, float]:
        """The next key, after the loop has had its turn: passes that have nothing to do wait for nothing, and ten
        thousand of them would keep the loop to themselves until the Lease is lost."""
        loop = asyncio.get_running_loop()
        if not self._ready.empty() and loop.time() - self._turn_at <= TURN_SECONDS:
            return self._ready.get_nowait()
        if not self._ready.empty():
            await asyncio.sleep(0)
        found = await self._ready.get()
        self._turn_at = loop.time()
        return found

    def _due(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _cancel_timer(self, key: Key) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    def _backoff(self, key: Key) -> float:
        RETRIES.labels(key.kind).inc()
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        longest = min(FIRST_BACKOFF_SECONDS * 2.0 ** min(failures - 1, 10), self._longest_backoff_seconds)
        return longest * random.uniform(0.5, 1.0)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
