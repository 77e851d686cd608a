"""When a call that failed is tried again: a pure decision, and the wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from dspy.lm15 import RETRYABLE_ERRORS

from dspy_runtime.lm.scope import SCOPE

T = TypeVar("T")
FIRST_SECONDS, LONGEST_SECONDS = 0.5, 20.0


def wait_seconds(
    tries: int, most: int, hint: float | None, remaining: float, draw: Callable[[], float]
) -> float | None:
    """How long to wait before the next try; None when there is none.

    `tries` have failed and `most` more than one are allowed. `hint` is the provider's Retry-After, which is obeyed with
    a tenth of jitter; without one the wait is full jitter below a bound that doubles. A wait that the request's
    `remaining` seconds do not hold is none: the caller is told at once. `draw` gives a number from 0 to 1.
    """
    if tries > most:
        return None
    if hint is None:
        wait = draw() * min(FIRST_SECONDS * 2 ** (tries - 1), LONGEST_SECONDS)
    else:
        wait = hint * (1 + 0.1 * draw())
    return wait if wait < remaining else None


async def tried(
    call: Callable[[], Awaitable[T]],
    most: int,
    may_retry: Callable[[Exception], bool] = lambda _: True,
    longest_wait: float = math.inf,
) -> T:
    """A call's result, after as many more tries as `most`, the request's deadline and `may_retry` allow. No wait is
    longer than `longest_wait` seconds."""
    tries = 0
    while True:
        try:
            return await call()
        except RETRYABLE_ERRORS as error:
            tries += 1
            seconds = _seconds_to_next(tries, most, error, longest_wait)
            if seconds is None or not may_retry(error):
                raise
        await _wait(seconds)


def _seconds_to_next(tries: int, most: int, error: Exception, longest_wait: float) -> float | None:
    scope = SCOPE.get()
    remaining = min(scope.remaining(), longest_wait) if scope else longest_wait
    return wait_seconds(tries, most, getattr(error, "retry_after", None), remaining, random.random)


async def _wait(seconds: float) -> None:
    """Waits in the name of the request that runs, whose place is lent meanwhile."""
    scope = SCOPE.get()
    async with scope.lent() if scope else contextlib.nullcontext():
        await asyncio.sleep(seconds)
