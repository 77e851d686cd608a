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
        self.lent = 0
        """Places of requests that wait for a provider, which others have meanwhile."""

    async def enter(self) -> Place:
        """Takes a place, waiting in the queue if it has room. Raises OverloadedError."""
        if not self.is_open():
            raise OverloadedError
        await self.wait()
        return Place(self)

    def is_open(self) -> bool:
        """True when one more may run or wait."""
        return not self._places.locked() or self.has_room()

    def has_room(self) -> bool:
        """True when one more may wait. Who lent a place wants it back, and so waits as well."""
        return self.waiting + self.lent < self._queue

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
    """The place of one request, free again when everybody who works for it has left. While a call of it waits for its
    next try the place is lent, as far as the queue has room for the request itself."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._users = 1
        self._held = True
        self._waits = 0
        self._coming_back: asyncio.Task[None] | None = None

    def keep(self) -> None:
        """One more works for the request."""
        self._users += 1

    def leave(self) -> None:
        """One less works for the request; after the last one it is over."""
        self._users -= 1
        if self._users:
            return
        if self._held:
            self._held = False
            self._admission.leave()
        elif self._coming_back is not None:
            self._coming_back.cancel()
        else:
            self._admission.lent -= 1

    async def lend(self) -> None:
        """One more call of the request waits."""
        self._waits += 1
        if self._held and self._admission.has_room():
            self._held = False
            self._admission.lent += 1
            self._admission.leave()

    async def take_back(self) -> None:
        """One call less waits; the request runs again when it has a place."""
        self._waits -= 1
        if self._held or self._waits or not self._users:
            return
        if self._coming_back is None:
            self._coming_back = asyncio.create_task(self._admission.wait())
            self._coming_back.add_done_callback(self._came_back)
        await asyncio.shield(self._coming_back)

    def _came_back(self, waiting: asyncio.Task[None]) -> None:
        """It waits no more: it has a place, which nobody may want by now, or was cancelled, perhaps before it began."""
        self._admission.lent -= 1
        self._coming_back = None
        if waiting.cancelled():
            return
        self._held = self._users > 0
        if not self._held:
            self._admission.leave()
