"""What is to be sent beside the passes: a queue and a task for each addressee, so that none waits for another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

MOST_WAITING = 1_000
"""For one addressee."""

T = TypeVar("T")


class Outbox(Generic[T]):
    """What waits to be sent, by the names of addressees, each in its order. What waits when it is closed is lost."""

    def __init__(self, send: Callable[[str, T], Awaitable[None]]) -> None:
        """`send` sends one item to the addressee of a name, and raises nothing."""
        self._send = send
        self._queues: dict[str, asyncio.Queue[T]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def put(self, name: str, item: T) -> bool:
        """Has an item sent, soon; False when too much waits for its addressee already."""
        if name not in self._queues:
            self._queues[name] = asyncio.Queue(MOST_WAITING)
            self._tasks.append(asyncio.create_task(self._send_for_ever(name, self._queues[name])))
        try:
            self._queues[name].put_nowait(item)
        except asyncio.QueueFull:
            return False
        return True

    def close(self) -> None:
        """Ends it."""
        for task in self._tasks:
            task.cancel()

    async def _send_for_ever(self, name: str, queue: asyncio.Queue[T]) -> None:
        while True:
            await self._send(name, await queue.get())
