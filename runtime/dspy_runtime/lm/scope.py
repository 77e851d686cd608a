"""What a request carries to every call of a language model that it makes, on whatever thread or loop that happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

from dspy_runtime.admission import Place

SCOPE: ContextVar[RequestScope | None] = ContextVar("dspy_runtime_request", default=None)
"""Of the request that runs; None in a thread that a program started by itself."""


class RequestGone(BaseException):
    """The request has ended, so its program's thread has nothing left to do. No `except Exception` keeps it."""


class RequestScope:
    """One request: until when it may last, its place, and the calls that wait for a provider in its name."""

    def __init__(self, seconds: float, place: Place) -> None:
        self._end = time.monotonic() + seconds
        self._place = place
        self._loop = asyncio.get_running_loop()
        self._calls: set[Future[Any]] = set()
        self._gone = False
        self._blocked = 0

    def remaining(self) -> float:
        """Seconds until the request's deadline; negative after it."""
        return self._end - time.monotonic()

    def end(self) -> None:
        """Cancels the calls that run, and lets no other begin."""
        self._gone = True
        for call in list(self._calls):
            call.cancel()

    def wait_for(self, call: Future[Any]) -> Any:
        """The result of a call that another thread's loop makes. Raises RequestGone when the request ends first."""
        self._calls.add(call)
        self._blocked += (blocks := _runs_a_loop())
        if self._gone:
            call.cancel()
        try:
            return call.result()
        except BaseException as error:
            if self._gone:
                raise RequestGone from error
            raise
        finally:
            self._calls.discard(call)
            self._blocked -= blocks

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[None]:
        """While a call waits for its next try, the place is another's."""
        if self._blocked:  # a program that blocks a loop may block the one that counts places
            yield
            return
        await self._at_home(self._place.lend)
        try:
            yield
        finally:
            await self._at_home(self._place.take_back)

    async def _at_home(self, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Places are counted on the loop of the requests."""
        if asyncio.get_running_loop() is self._loop:
            await act()
        else:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(act(), self._loop))


def _runs_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
