"""Runs the program: on the event loop where it can be awaited, else on a thread of its own."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import dspy

from dspy_runtime.admission import Place
from dspy_runtime.calling import awaitable, is_async
from dspy_runtime.exchange import Exchange
from dspy_runtime.lm.scope import SCOPE
from dspy_runtime.metrics import Metrics


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
    except SystemExit as error:
        raise RuntimeError("a task of the program called sys.exit") from error


class Runner:
    """Runs one program, many requests at once."""

    def __init__(self, program: Any, most_threads: int, metrics: Metrics) -> None:
        self._program = program
        self._awaited = awaitable(program) if is_async(program) else None
        self._threads = ThreadPoolExecutor(most_threads, "program")
        self.abandoned = 0
        """Threads that still run a request that has ended."""
        metrics.abandoned.set_function(lambda: self.abandoned)

    async def run(self, exchange: Exchange) -> None:
        """The innermost stage: the program itself."""
        assert exchange.place is not None
        with dspy.context(trace=[]):
            if self._awaited is not None:
                exchange.result = await self._awaited(**exchange.arguments)
            else:
                exchange.result = await self._in_thread(exchange.arguments, exchange.place)

    async def _in_thread(self, arguments: dict[str, Any], place: Place) -> Any:
        """Runs a program that cannot be awaited. Its place is free only when its thread is, whoever waits for it."""
        loop = asyncio.get_running_loop()
        work = functools.partial(contextvars.copy_context().run, self._call, arguments)
        call: Future[Any] = self._threads.submit(work)
        place.keep()
        thread = asyncio.wrap_future(call)

        def ended(_: Future[Any]) -> None:
            loop.call_soon_threadsafe(place.leave)

        call.add_done_callback(ended)
        try:
            return await asyncio.shield(thread)
        except BaseException:
            if not thread.done():
                self._abandon(thread)
            raise

    def _call(self, arguments: dict[str, Any]) -> Any:
        try:
            return self._program(**arguments)
        except StopIteration as error:  # which no future can hold: its request would wait for ever
            raise RuntimeError("StopIteration") from error

    def _abandon(self, thread: asyncio.Future[Any]) -> None:
        """Counts a thread whose request has ended until it ends too."""
        self.abandoned += 1

        def ended(thread: asyncio.Future[Any]) -> None:
            self.abandoned -= 1
            if not thread.cancelled():
                thread.exception()  # asked for, so that nobody is told of one that nobody waits for

        thread.add_done_callback(ended)
