"""Who may run now: a bounded number of requests, a bounded queue before it, and everybody else is told at once."""

from __future__ import annotations

import asyncio
from enum import IntEnum

from dspy_runtime.turns import Turns


class OverloadedError(Exception):
    """All places and the whole queue are taken."""


class Priority(IntEnum):
    """Who goes first of those who wait."""

    RETURNING = 0
    """Whoever had a place already, and lent it."""
    HIGH = 1
    NORMAL = 2
    LOW = 3


class Admission:
    """Places for requests, on one event loop."""

    def __init__(self, concurrency: int, queue: int) -> None:
        self._concurrency = concurrency
        self._queue = queue
        self._turns = Turns(self.leave)
        self.running = 0
        self.lent = 0
        """Places of requests that wait for a provider, which others have meanwhile."""

    @property
    def waiting(self) -> int:
        """Requests that wait for a place."""
        return len(self._turns)

    async def enter(self, priority: Priority = Priority.NORMAL) -> Place:
        """Takes a place, waiting in the queue if it has room, or if somebody waits there who may wait less. Raises
        OverloadedError."""
        if not self.is_open(priority):
            raise OverloadedError
        if not self._is_free() and not self.has_room():
            self._turns.turn_away(OverloadedError())
        await self.wait(priority)
        return Place(self)

    def is_open(self, priority: Priority = Priority.NORMAL) -> bool:
        """True when one more may run or wait."""
        return self._is_free() or self.has_room() or (self._turns.last() or Priority.RETURNING) > priority

    def has_room(self) -> bool:
        """True when one more may wait. Who lent a place wants it back, and so waits as well."""
        return self.waiting + self.lent < self._queue

    async def wait(self, priority: Priority = Priority.RETURNING) -> None:
        """Waits for a place, counted as one that waits."""
        if self._is_free():
            self.running += 1
        else:
            await self._turns.wait(priority)  # whoever gives the turn has counted it

    def leave(self) -> None:
        """Gives a place back."""
        self.running -= 1
        while self.running < self._concurrency and self._turns.give():
            self.running += 1

    def _is_free(self) -> bool:
        return self.running < self._concurrency and not self._turns


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
