"""When an endpoint that fails is not asked for a while: a pure decision, by the calls that have ended.

Closed, every call goes out. When enough of those of the last window have failed it opens, and none does. After a pause
it is half open: one call goes out at a time, and how that ends closes it or opens it again.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum

from dspy_runtime.settings import BreakerSettings

_SLICES = 10
"""Of a window, each forgotten as a whole."""


class Position(IntEnum):
    """Where a breaker stands."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Breaker:
    """Of one endpoint, for the callers on one event loop. `now` are seconds of a clock that only goes on."""

    def __init__(self, settings: BreakerSettings) -> None:
        self._settings = settings
        self._slices: deque[list[int]] = deque()
        """Number of the slice, calls that ended well, calls that failed."""
        self._open_until: float | None = None
        self._probing = False
        self._turn = 0
        """How often it has opened or closed."""

    def position(self, now: float) -> Position:
        """Where it stands."""
        if self._open_until is None:
            return Position.CLOSED
        return Position.OPEN if now < self._open_until else Position.HALF_OPEN

    def admit(self, now: float) -> int | None:
        """A ticket when a call may go out now, else None. Its holder tells how the call ended, by `record` or
        `forget`."""
        position = self.position(now)
        if position is Position.OPEN or (position is Position.HALF_OPEN and self._probing):
            return None
        self._probing = position is Position.HALF_OPEN
        return self._turn

    def record(self, ticket: int, failed: bool, now: float) -> None:
        """A call has ended. What was under way before the last turn says nothing any more."""
        if ticket != self._turn:
            return
        if self._open_until is None:
            self._count(failed, now)
        if failed and (self._probing or self._is_too_much()):
            self._begin(now + self._settings.open_seconds)
        elif self._probing:
            self._begin(None)

    def forget(self, ticket: int) -> None:
        """A call has ended, and nobody knows how it would have."""
        if ticket == self._turn:
            self._probing = False

    def _begin(self, open_until: float | None) -> None:
        self._open_until, self._probing = open_until, False
        self._turn += 1
        self._slices.clear()

    def _count(self, failed: bool, now: float) -> None:
        number = int(now * _SLICES / self._settings.window_seconds)
        if not self._slices or self._slices[-1][0] != number:
            self._slices.append([number, 0, 0])
        self._slices[-1][1 + failed] += 1
        while self._slices[0][0] <= number - _SLICES:
            self._slices.popleft()

    def _is_too_much(self) -> bool:
        good, bad = (sum(each[place] for each in self._slices) for place in (1, 2))
        return good + bad >= self._settings.least_calls and 100 * bad >= self._settings.failure_percent * (good + bad)
