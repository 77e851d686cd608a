"""Runs the program: on the event loop where it can be awaited, else on a thread of its own."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy

from dspy_runtime.admission import Place
from dspy_runtime.exchange import Exchange
from dspy_runtime.lm.scope import SCOPE, RequestScope
from dspy_runtime.metrics import Metrics
from dspy_runtime.schema import is_async


class Runner:
    """Runs one program, many requests at once."""

    def __init__(self, program: Any, most_threads: int, metrics: Metrics) -> None:
        self._program = program
        self._threads = None if is_async(program) else ThreadPoolExecutor(most_threads, "program")
        self._metrics = metrics
        self.abandoned = 0
        """Threads that still run a request that has ended."""

    async def run(self, exchange: Exchange) -> None:
        """The stage that runs the program. Whatever it asked of a language model ends with it."""
        place = exchange.place
        assert place is not None
        scope = RequestScope(exchange.ends_at - asyncio.get_running_loop().time(), place)
        SCOPE.set(scope)
        try:
            with dspy.context(trace=[]):
                if self._threads is None:
                    exchange.result = await self._program.acall(**exchange.arguments)
                else:
                    exchange.place = None  # the thread's, from here on
                    exchange.result = await self._in_thread(self._threads, exchange.arguments, place)
        finally:
            scope.end()

    async def _in_thread(self, threads: ThreadPoolExecutor, arguments: dict[str, Any], place: Place) -> Any:
        """Runs a program that cannot be awaited. Its place is free only when its thread is, whoever waits for it."""
        call = functools.partial(contextvars.copy_context().run, self._program, **arguments)
        try:
            thread = asyncio.get_running_loop().run_in_executor(threads, call)
        except RuntimeError:  # no more threads
            place.leave()
            raise
        thread.add_done_callback(functools.partial(_ended, place))
        try:
            return await asyncio.shield(thread)
        except BaseException:
            if not thread.done():
                self._abandon(thread)
            raise

    def _abandon(self, thread: asyncio.Future[Any]) -> None:
        """Counts a thread whose request has ended until it ends too."""
        self.abandoned += 1
        self._metrics.abandoned.set(self.abandoned)

        def ended(_: asyncio.Future[Any]) -> None:
            self.abandoned -= 1
            self._metrics.abandoned.set(self.abandoned)

        thread.add_done_callback(ended)


def _ended(place: Place, thread: asyncio.Future[Any]) -> None:
    place.leave()
    if not thread.cancelled():
        thread.exception()  # asked for, so that nobody is told of one that nobody waits for
