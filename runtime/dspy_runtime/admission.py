"""Who may run now: a bounded number of requests, a bounded queue before it, and everybody else is told at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class OverloadedError(Exception):
    """All places and the whole queue are taken."""


class Admission:
    """Places for requests. A place is given back by calling what `enter` returned, once."""

    def __init__(self, concurrency: int, queue: int) -> None:
        self._places = asyncio.Semaphore(concurrency)
        self._queue = queue
        self.running = 0
        self.waiting = 0

    async def enter(self) -> Callable[[], None]:
        """Takes a place, waiting in the queue if it has room. Raises OverloadedError."""
        if self._places.locked():
            if self.waiting >= self._queue:
                raise OverloadedError
            self.waiting += 1
            try:
                await self._places.acquire()
            finally:
                self.waiting -= 1
        else:
            await self._places.acquire()
        self.running += 1
        return self._leave

    def _leave(self) -> None:
        self.running -= 1
        self._places.release()
