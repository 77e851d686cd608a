"""Runs the program: on the event loop where it can be awaited, else on a thread of its own."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import anyio
import anyio.to_thread
import dspy

from dspy_runtime.admission import Place
from dspy_runtime.calling import awaitable, is_async
from dspy_runtime.exchange import Exchange
from dspy_runtime.lm.scope import SCOPE
from dspy_runtime.metrics import Metrics
from dspy_runtime.streaming import Streams


def contain_exits(loop: asyncio.AbstractEventLoop) -> None:
    """A task of a program that calls sys.exit ends its request, as one that does so in `forward`: asyncio would end the
    process, and all requests with it."""

    def make(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        if SCOPE.get() is not None and asyncio.iscoroutine(work):
            work = _contained(work)
        return asyncio.Task(work, loop=loop, **options)

    loop.set_task_factory(make)


async def _contained(work: Any) -> Any:
    try:
        return await work
    except (SystemExit, KeyboardInterrupt) as error:
        raise RuntimeError(f"a task of the program raised {type(error).__name__}") from error


class Runner:
    """Runs one program, many requests at once."""

    def __init__(self, program: Any, streams: Streams, most_threads: int, metrics: Metrics) -> None:
        self._program = program
        self._streams = streams
        self._awaited = awaitable(program) if is_async(program) else None
        self._threads = anyio.CapacityLimiter(most_threads)
        self.abandoned = 0
        """Threads that still run a request that has ended."""
        metrics.abandoned.set_function(lambda: self.abandoned)

    async def run(self, exchange: Exchange) -> None:
        """The innermost stage: the program itself."""
        with dspy.context(trace=[]):
            if exchange.parts is None:
                exchange.result = await self._result(exchange)
                return
            with dspy.context(send_stream=self._streams.of(exchange.parts)):
                exchange.result = await self._result(exchange)

    async def _result(self, exchange: Exchange) -> Any:
        if self._awaited is not None:
            return await self._awaited(**exchange.arguments)
        assert exchange.place is not None
        return await self._in_thread(exchange.arguments, exchange.place)

    async def _in_thread(self, arguments: dict[str, Any], place: Place) -> Any:
        """Runs a program that cannot be awaited. Its place is free only when its thread is, whoever waits for it."""
        # DSPy sends what a model says to a stream's loop from a thread of AnyIO's only.
        call = functools.partial(self._program, **arguments)
        thread = asyncio.ensure_future(anyio.to_thread.run_sync(call, limiter=self._threads))
        place.keep()
        thread.add_done_callback(lambda _: place.leave())
        try:
            return await asyncio.shield(thread)
        except BaseException:
            if not thread.done():
                self._abandon(thread)
            raise

    def _abandon(self, thread: asyncio.Task[Any]) -> None:
        """Counts a thread whose request has ended until it ends too."""
        self.abandoned += 1

        def ended(thread: asyncio.Future[Any]) -> None:
            self.abandoned -= 1
            if not thread.cancelled():
                thread.exception()  # asked for, so that nobody is told of one that nobody waits for

        thread.add_done_callback(ended)
