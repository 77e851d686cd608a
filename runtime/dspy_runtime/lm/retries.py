"""When a call that failed is tried again: a pure decision, and the wait for it."""

from __future__ import annotations

import asyncio
import contextlib
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


async def tried(call: Callable[[], Awaitable[T]], most: int) -> T:
    """A call's result, after as many more tries as `most` and the request's deadline allow."""
    tries = 0
    while True:
        try:
            return await call()
        except RETRYABLE_ERRORS as error:
            tries += 1
            await _wait_for_next(tries, most, error)


async def _wait_for_next(tries: int, most: int, error: Exception) -> None:
    """Waits for the next try in the name of the request that runs, whose place is lent meanwhile. Raises the error when
    there is no other try."""
    scope = SCOPE.get()
    remaining = scope.remaining() if scope else float("inf")
    seconds = wait_seconds(tries, most, getattr(error, "retry_after", None), remaining, random.random)
    if seconds is None:
        raise error
    async with scope.lent() if scope else contextlib.nullcontext():
        await asyncio.sleep(seconds)
