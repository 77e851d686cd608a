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


class BreakerState(IntEnum):
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
        self._probe_until: float | None = None
        """How long the call that tries keeps others from it, however it ends."""
        self._period = 0
        """How often it has opened or closed."""

    def state(self, now: float) -> BreakerState:
        """Where it stands. Metrics ask from another thread."""
        open_until = self._open_until
        if open_until is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now < open_until else BreakerState.HALF_OPEN

    def admit(self, now: float) -> int | None:
        """A ticket when a call may go out now, else None. Its holder tells how the call ended, by `record` or
        `forget`."""
        state = self.state(now)
        if state is BreakerState.OPEN:
            return None
        if state is BreakerState.HALF_OPEN:
            if self._probe_until is not None and now < self._probe_until:
                return None
            self._probe_until = now + self._settings.window_seconds
        return self._period

    def record(self, ticket: int, failed: bool, now: float) -> None:
        """A call has ended. What was under way before it last opened or closed says nothing any more."""
        if ticket != self._period:
            return
        if self._open_until is None:
            self._count(failed, now)
        if failed and (self._probe_until is not None or self._is_too_much()):
            self._begin(now + self._settings.open_seconds)
        elif self._probe_until is not None:
            self._begin(None)

    def forget(self, ticket: int) -> None:
        """A call has ended, and nobody knows how it would have."""
        if ticket == self._period:
            self._probe_until = None

    def _begin(self, open_until: float | None) -> None:
        self._open_until, self._probe_until = open_until, None
        self._period += 1
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
        return good + bad >= self._settings.minimum_calls and 100 * bad >= self._settings.failure_percent * (good + bad)
