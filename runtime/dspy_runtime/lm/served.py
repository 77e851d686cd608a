"""`dspy.LM` as a server needs it: the same call, without two hops to other threads.

DSPy prepares a call and looks up its price on worker threads, for reading a file and a table of prices may block. Here
messages are in memory and nobody asks for prices, and the two hops were a quarter of a request's CPU (1.03 ms, 0.79 ms
without them). What is called here is DSPy's own code, of the minor that pyproject.toml pins.

Who reads an answer as it comes is told on the loop of the requests, from there and from the thread of a request. What
threads and loops of the program's own ask is answered as a whole.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Any

import anyio.from_thread
import dspy
from dspy.clients import execution
from dspy.clients.call_result import combine
from dspy.clients.errors import error_boundary
from dspy.utils.callback import with_callbacks

from dspy_runtime.lm.scope import SCOPE


class RequestCalls(ABC):
    """What DSPy has as its stream while an answer is read as it comes. Any other stream is the program's own."""

    @abstractmethod
    def call(self) -> Any:
        """The stream of the call that begins now; None for one that is answered as a whole."""


class ServedLM(dspy.LM):  # type: ignore[misc]
    """A language model whose engine is ours: it keeps no answers, and tries nothing again by itself."""

    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """One call from a thread."""
        calls = dspy.settings.send_stream
        if not isinstance(calls, RequestCalls):
            return super().__call__(prompt, messages=messages, **kwargs)
        stream = calls.call() if _is_home(_loop_of_thread()) else None
        with dspy.context(send_stream=stream):
            result = super().__call__(prompt, messages=messages, **kwargs)
        if stream is not None:
            anyio.from_thread.run(stream.finish)
        return result

    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """One call, as `dspy.LM` makes it."""
        calls = dspy.settings.send_stream
        if not isinstance(calls, RequestCalls):
            return await self._acall(prompt, messages=messages, **kwargs)
        stream = calls.call() if _is_home(asyncio.get_running_loop()) else None
        with dspy.context(send_stream=stream):
            result = await self._acall(prompt, messages=messages, **kwargs)
        if stream is not None:
            await stream.finish()
        return result

    @with_callbacks  # type: ignore[untyped-decorator]
    async def _acall(self, prompt: Any, *, messages: Any, **kwargs: Any) -> Any:
        call = execution.prepare(self, prompt, messages, kwargs, asynchronous=True)
        engine, request, provider = execution._engine(self, call, True)
        results: list[Any] = []
        try:
            for _ in range(call.n):
                with error_boundary(self.model, provider=provider, unexpected=True):
                    await execution._aattempt(self, call, engine, request, provider, execution._Attempt(), results)
        except BaseException as error:
            execution._account_failed_call(self, results, error)
            raise
        result = results[0] if len(results) == 1 else combine(results, model_type=self.model_type)
        return execution.finalize(self, call, result)


def _is_home(loop: asyncio.AbstractEventLoop | None) -> bool:
    """True for the loop of the request that runs."""
    scope = SCOPE.get()
    return scope is not None and loop is not None and scope.is_of(loop)


def _loop_of_thread() -> asyncio.AbstractEventLoop | None:
    """The loop that a thread of AnyIO's can reach; None in any other."""
    try:
        return anyio.from_thread.run_sync(asyncio.get_running_loop)
    except RuntimeError:
        return None
