"""A second call beside one that takes unusually long: whichever answers first is taken, the other is cancelled.

A hedge is paid for like any call. It is made at the same endpoint, so that the same model answers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from statistics import quantiles
from typing import TypeVar

from dspy_runtime.lm.budget import Budget
from dspy_runtime.settings import HedgeSettings

T = TypeVar("T")
LEAST_ANSWERS, MOST_ANSWERS = 50, 1_000
LONGEST_AGO_SECONDS = 300.0
EVERY = 25
"""Answers from one reckoning to the next."""


class LatencyWindow:
    """How long answers of an endpoint took of late. `now` are seconds of a clock that only goes on."""

    def __init__(self, percentile: int) -> None:
        self._percentile = percentile
        self._answers: deque[tuple[float, float]] = deque(maxlen=MOST_ANSWERS)
        self._since = 0
        self._after: float | None = None

    def take(self, seconds: float, now: float) -> None:
        """An answer has come after so long."""
        self._answers.append((now, seconds))
        self._since += 1
        if self._since >= EVERY:
            self._since = 0
            self._reckon(now)

    def after(self, now: float) -> float | None:
        """Seconds after which an answer is unusually late; None while too few have come of late."""
        is_old = not self._answers or self._answers[-1][0] < now - LONGEST_AGO_SECONDS
        return None if is_old else self._after

    def _reckon(self, now: float) -> None:
        while self._answers and self._answers[0][0] < now - LONGEST_AGO_SECONDS:
            self._answers.popleft()
        took = [seconds for _, seconds in self._answers]
        self._after = quantiles(took, n=100)[self._percentile - 1] if len(took) >= LEAST_ANSWERS else None


class Hedge:
    """Second calls of one endpoint, for the callers on one event loop."""

    def __init__(self, settings: HedgeSettings, made: Callable[[], None], allowed: Callable[[], bool]) -> None:
        """`made` is told of every second call, `allowed` asked before it."""
        self._window = LatencyWindow(settings.percentile)
        self._budget = Budget(settings.max_extra_percent)
        self._made, self._allowed = made, allowed

    async def first(self, call: Callable[[], Awaitable[T]]) -> T:
        """The first good answer of a call, or of a second one beside it. Raises what the first one raised where none is
        good."""
        loop = asyncio.get_running_loop()
        self._budget.earn()
        began = loop.time()
        calls: list[asyncio.Future[T]] = [asyncio.ensure_future(call())]
        try:
            after = self._window.after(began)
            if after is not None:
                await asyncio.wait(calls, timeout=after)
                if not calls[0].done() and self._allowed() and self._budget.spend():
                    self._made()
                    calls.append(asyncio.ensure_future(call()))
            answer = await _first_good(calls)
        finally:
            for each in calls:
                each.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        self._window.take(loop.time() - began, loop.time())
        return answer


async def _first_good(calls: list[asyncio.Future[T]]) -> T:
    waiting = set(calls)
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for each in done:
            if not each.cancelled() and each.exception() is None:
                return each.result()
    return calls[0].result()
