"""An event loop whose time is virtual: it never sleeps, and an hour passes in the time that its work takes."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any


class _Selector(selectors.SelectSelector):
    """Instead of waiting for I/O, of which there is none, it lets the loop's time pass."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Advances the clock by the timeout."""
        ready = super().select(0)
        if not ready and timeout:
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop on virtual time, which begins at `start` (seconds)."""

    def __init__(self, start: float = 0.0) -> None:
        self._virtual = _Selector()
        self._virtual.now = start
        super().__init__(self._virtual)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        """Virtual seconds."""
        return self._virtual.now

    def pass_time(self, seconds: float) -> None:
        """Runs everything that is due within that time."""
        self.run_until_complete(asyncio.sleep(seconds))


def close(loop: VirtualLoop, tasks: list[asyncio.Task[Any]]) -> None:
    """Ends tasks and the loop."""
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()
