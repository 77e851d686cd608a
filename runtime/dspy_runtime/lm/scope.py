"""What a request carries to every call of a language model that it makes, on whatever thread or loop that happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any

from opentelemetry.context import Context

from dspy_runtime.admission import Place
from dspy_runtime.lm import trace_context

LATE_SECONDS = 0.05
"""Before its deadline a request that is called off was so by that: two clocks tell of it."""

SCOPE: ContextVar[RequestScope | None] = ContextVar("dspy_runtime_request", default=None)
"""Of the request that runs; None in a thread that a program started by itself."""


class RequestGone(BaseException):
    """The request has ended, so its program's thread has nothing left to do. No `except Exception` keeps it."""


class RequestScope:
    """One request: until when it may last, the trace it belongs to, its place, and the calls that wait for a provider
    in its name."""

    def __init__(self, deadline: float, trace: Context | None = None, of_client: bool = False) -> None:
        """`deadline` is a time of time.monotonic; `of_client` says whether it is the client's own wish."""
        self._end = deadline
        self._of_client = of_client
        self._seconds = deadline - time.monotonic()
        self._trace = trace
        self.place: Place | None = None
        self.tokens = 0
        """What its answers of language models took, as far as they told."""
        self.cost: int | None = 0
        """What they cost, in billionths of a US dollar; None as soon as nobody knows what one did."""
        self.models: set[str] = set()
        """Which answered."""
        self.fell_back = False
        """Whether a model that stands in for another is among them."""
        self.memory: dict[int, Any] = {}
        """What modules that requests share remember of this one, by their identity."""
        self._loop = asyncio.get_running_loop()
        self._calls: set[Future[Any]] = set()
        self._gone = False
        self._blocked = 0

    def remaining(self) -> float:
        """Seconds until the request's deadline; negative after it."""
        return self._end - time.monotonic()

    def is_used_up_by(self, seconds: float) -> bool:
        """See used_up_deadline."""
        return self.remaining() < LATE_SECONDS and not self._of_client and seconds >= self._seconds / 2

    def answered(self, model: str, is_fallback: bool, tokens: int, cost: int | None) -> None:
        """An answer of a language model has come, and took so much."""
        self.models.add(model)
        self.fell_back |= is_fallback
        self.tokens += tokens
        self.cost = None if self.cost is None or cost is None else self.cost + cost

    def is_of(self, loop: asyncio.AbstractEventLoop) -> bool:
        """True for the loop of the requests."""
        return loop is self._loop

    @contextmanager
    def entered(self) -> Iterator[None]:
        """What is called in it, and in threads that it starts by DSPy's means, belongs to the request. At its end the
        calls that still run are cancelled, and no other begins."""
        token = SCOPE.set(self)
        try:
            with trace_context.within(self._trace):
                yield
        finally:
            SCOPE.reset(token)
            self._gone = True
            for call in list(self._calls):
                call.cancel()

    def wait_for(self, call: Future[Any]) -> Any:
        """The result of a call that another thread's loop makes. Raises RequestGone when the request ends first."""
        self._blocked += (blocks := _runs_a_loop())
        try:
            with self._owned(call):
                return call.result()
        finally:
            self._blocked -= blocks

    async def awaited(self, call: Future[Any]) -> Any:
        """The same for a caller on a loop of its own."""
        with self._owned(call):
            return await asyncio.wrap_future(call)

    @contextmanager
    def _owned(self, call: Future[Any]) -> Iterator[None]:
        self._calls.add(call)
        if self._gone:
            call.cancel()
        try:
            yield
        except BaseException as error:
            if self._gone:
                raise RequestGone from error
            raise
        finally:
            self._calls.discard(call)

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[None]:
        """While a call waits for its next try, the place is another's."""
        place = self.place
        if self._blocked or place is None:  # a program that blocks a loop may block the one that counts places
            yield
            return
        await self._at_home(place.lend)
        try:
            yield
        finally:
            await self._at_home(place.take_back)

    async def _at_home(self, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Places are counted on the loop of the requests."""
        if self.is_of(asyncio.get_running_loop()):
            await act()
        else:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(act(), self._loop))


def is_at_deadline() -> bool:
    """True when the request that runs is at its deadline."""
    scope = SCOPE.get()
    return scope is not None and scope.remaining() < LATE_SECONDS


def used_up_deadline(seconds: float) -> bool:
    """True when the request that runs is at a deadline that is not its client's, and what took so long is to blame: it
    had at least half of the time."""
    scope = SCOPE.get()
    return scope is not None and scope.is_used_up_by(seconds)


def _runs_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
