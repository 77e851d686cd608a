"""Who waits for a turn: by rank, then in the order in which they came."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
from collections.abc import Callable


class Turns:
    """Those who wait, on one event loop; a lower rank goes first. `unwanted` is called for a turn that was given to
    somebody who left in the same moment."""

    def __init__(self, unwanted: Callable[[], None]) -> None:
        self._unwanted = unwanted
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._waiting)

    async def wait(self, rank: int = 0) -> None:
        """Waits for a turn. Raises what `turn_away` was given."""
        turn = asyncio.get_running_loop().create_future()
        entry = (rank, next(self._numbers), turn)
        heapq.heappush(self._waiting, entry)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with contextlib.suppress(ValueError):  # nobody may have looked at it since
                    self._waiting.remove(entry)
                    heapq.heapify(self._waiting)
            elif turn.exception() is None:
                self._unwanted()
            raise

    def give(self) -> bool:
        """Gives a turn to whoever is first; False when nobody waits."""
        while self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return True
        return False

    def last(self) -> int | None:
        """The rank of whoever would be last; None when nobody waits."""
        return max(self._waiting)[0] if self._waiting else None

    def turn_away(self, error: Exception) -> None:
        """Whoever would be last waits no more."""
        entry = max(self._waiting)
        self._waiting.remove(entry)
        heapq.heapify(self._waiting)
        if not entry[2].done():
            entry[2].set_exception(error)
