"""One engine over DSPy's engine contract: endpoints in order, calls from any thread or loop.

Calls are made on two loops: that of the requests, and one of the engine's own, to which every other caller hands its
call (see endpoint.py).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from dspy.lm15 import Request, Response

from dspy_runtime.lm.background import awaited, background, wait
from dspy_runtime.lm.endpoint import Endpoint, NotAskedError, is_fault

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What DSPy's adapters may ask of a model."""

    function_calling: bool = False
    reasoning: bool = False
    response_schema: bool = False
    params: frozenset[str] = frozenset()

    def __and__(self, other: Capabilities) -> Capabilities:
        """What both can: whoever stands in must be able to answer what was asked."""
        return Capabilities(
            self.function_calling and other.function_calling,
            self.reasoning and other.reasoning,
            self.response_schema and other.response_schema,
            self.params & other.params,
        )


class Capable:
    """What of an engine DSPy asks before it calls."""

    def __init__(self, capabilities: Capabilities) -> None:
        self.capabilities = capabilities
        self.supports_function_calling = capabilities.function_calling
        self.supports_reasoning = capabilities.reasoning
        self.supports_response_schema = capabilities.response_schema
        self.supported_params = capabilities.params


class AsyncEngine(Capable):
    """What DSPy awaits."""

    def __init__(self, capabilities: Capabilities, endpoints: Sequence[Endpoint]) -> None:
        """Endpoints are asked in this order: the next one when those before it fail, or are not to be asked."""
        super().__init__(capabilities)
        self._endpoints = endpoints
        self.home: asyncio.AbstractEventLoop | None = None
        """The loop of the requests, whose calls need no other."""

    async def complete(self, request: Request) -> Response:
        """One answer, after as many tries as the settings allow and the request's deadline holds."""
        if self._is_here():
            return await self._complete(request)
        response: Response = await awaited(self._complete(request))
        return response

    async def stream(self, request: Request) -> AsyncIterator[Any]:
        """The answer's events. Until the first words it is tried again: what has been said cannot be taken back."""
        if self._is_here():
            async with contextlib.aclosing(await self._begin(request)) as events:
                async for event in events:
                    yield event
            return
        events = await awaited(self._begin(request))
        try:
            while (event := await awaited(anext(events, _END))) is not _END:
                yield event
        finally:
            background().submit(events.aclose())

    async def aclose(self) -> None:
        """Closes the connections, after the last request."""
        for endpoint in self._endpoints:
            await endpoint.aclose()

    def complete_from_thread(self, request: Request) -> Response:
        """`complete` for a caller that cannot await."""
        return wait(self._complete(request))

    def stream_from_thread(self, request: Request) -> Iterator[Any]:
        """`stream` for a caller that cannot await."""
        events = wait(self._begin(request))
        try:
            while (event := wait(anext(events, _END))) is not _END:
                yield event
        finally:
            background().submit(events.aclose())

    def _is_here(self) -> bool:
        loop = asyncio.get_running_loop()
        return loop is self.home or loop is background().loop

    async def _complete(self, request: Request) -> Response:
        return await self._in_order(lambda endpoint: endpoint.here().complete(endpoint.wired(request)))

    async def _begin(self, request: Request) -> Any:
        return await self._in_order(lambda endpoint: endpoint.here().begin(endpoint.wired(request)))

    async def _in_order(self, ask: Callable[[Endpoint], Awaitable[T]]) -> T:
        """What the first endpoint says that answers. Raises what the first one that was asked failed with: what a
        stand-in refuses, which can do less, is not what went wrong."""
        fault: Exception | None = None
        for endpoint in self._endpoints:
            try:
                return await ask(endpoint)
            except Exception as error:
                if fault is None and not is_fault(error):
                    raise
                if fault is None or (isinstance(fault, NotAskedError) and is_fault(error)):
                    fault = error
        assert fault is not None
        raise fault


_END = object()
"""After the last event of a stream."""


class SyncEngine(Capable):
    """What DSPy calls from a thread: the same engine, asked on its own loop."""

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine.capabilities)
        self._engine = engine

    def complete(self, request: Request) -> Response:
        """One answer."""
        return self._engine.complete_from_thread(request)

    def stream(self, request: Request) -> Iterator[Any]:
        """The answer's events."""
        return self._engine.stream_from_thread(request)

    def close(self) -> None:
        """Nothing: connections are closed with the process."""
