"""Who may run now: a bounded number of requests, a bounded queue before it, and everybody else is told at once."""

from __future__ import annotations

import asyncio


class OverloadedError(Exception):
    """All places and the whole queue are taken."""


class Admission:
    """Places for requests, on one event loop."""

    def __init__(self, concurrency: int, queue: int) -> None:
        self._places = asyncio.Semaphore(concurrency)
        self._queue = queue
        self.running = 0
        self.waiting = 0

    async def enter(self) -> Place:
        """Takes a place, waiting in the queue if it has room. Raises OverloadedError."""
        if self._places.locked():
            if not self.has_room():
                raise OverloadedError
            await self.wait()
        else:
            await self._places.acquire()
            self.running += 1
        return Place(self)

    def has_room(self) -> bool:
        """True when one more may wait."""
        return self.waiting < self._queue

    async def wait(self) -> None:
        """Waits for a place, counted as one that waits."""
        self.waiting += 1
        try:
            await self._places.acquire()
        finally:
            self.waiting -= 1
        self.running += 1

    def leave(self) -> None:
        """Gives a place back."""
        self.running -= 1
        self._places.release()


class Place:
    """The place of one request. While a call of it waits for its next try the place is lent, as far as the queue has
    room for the request itself."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._held = True
        self._over = False
        self._waits = 0

    async def lend(self) -> None:
        """One more call of the request waits."""
        self._waits += 1
        if self._held and self._admission.has_room():
            self._held = False
            self._admission.leave()

    async def take_back(self) -> None:
        """One call less waits; the request runs again when it has a place."""
        self._waits -= 1
        if not self._held and not self._waits and not self._over:
            await self._admission.wait()
            self._held = True

    def leave(self) -> None:
        """The request is over."""
        self._over = True
        if self._held:
            self._held = False
            self._admission.leave()
