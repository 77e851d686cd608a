"""One engine over DSPy's engine contract: retries under the request's deadline, calls from any thread or loop.

Programs call models from the loop of the requests, from loops that they run themselves, and from plain threads. A
connection belongs to one loop, so there are two sets: that of the requests' loop, and one of a loop of the engine's
own, to which every other caller hands its call.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from dspy.lm15 import Request, Response, Usage

from dspy_runtime.lm.background import awaited, background, wait
from dspy_runtime.lm.providers import Wire
from dspy_runtime.lm.retries import tried
from dspy_runtime.lm.transport import Transport


class Caller(Protocol):
    """One try of a call at a provider, on one event loop."""

    async def complete(self, request: Request) -> Response:
        """The whole answer."""
        ...

    def stream(self, request: Request) -> AsyncGenerator[Any]:
        """The answer's events as they come."""
        ...


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What DSPy's adapters may ask of a model."""

    function_calling: bool = False
    reasoning: bool = False
    response_schema: bool = False
    params: frozenset[str] = frozenset()


class Capable:
    """What of an engine DSPy asks before it calls."""

    def __init__(self, capabilities: Capabilities) -> None:
        self.capabilities = capabilities
        self.supports_function_calling = capabilities.function_calling
        self.supports_reasoning = capabilities.reasoning
        self.supports_response_schema = capabilities.response_schema
        self.supported_params = capabilities.params


@dataclass(frozen=True, slots=True)
class Model:
    """What every call of one model has in common."""

    name: str
    """As the provider calls it."""
    capabilities: Capabilities
    wire: Wire
    silent_seconds: float
    """How long the provider may send nothing."""
    most_retries: int
    observe: Callable[[Usage], None]
    """Told what every answer cost, whoever asked: DSPy's own tracker loses the tokens of threads and of requests whose
    client left."""


class AsyncEngine(Capable):
    """What DSPy awaits."""

    def __init__(self, model: Model, connect: Callable[[Transport], Caller]) -> None:
        super().__init__(model.capabilities)
        self._model = model
        self._connect = connect
        self._transports: dict[asyncio.AbstractEventLoop, Transport] = {}
        self._callers: dict[asyncio.AbstractEventLoop, Caller] = {}
        self.home: asyncio.AbstractEventLoop | None = None
        """The loop of the requests, whose calls need no other."""

    async def complete(self, request: Request) -> Response:
        """One answer, after as many tries as the settings allow and the request's deadline holds."""
        if self._is_here():
            return await self._complete(request)
        response: Response = await awaited(self._complete(request))
        return response

    async def stream(self, request: Request) -> AsyncIterator[Any]:
        """The answer's events. It is tried again until the first one: what has been said cannot be taken back."""
        if self._is_here():
            async for event in self._stream(request):
                yield event
            return
        events = self._stream(request)
        try:
            while (event := await awaited(anext(events, _END))) is not _END:
                yield event
        finally:
            background().submit(events.aclose())

    async def aclose(self) -> None:
        """Closes the connections, after the last request."""
        for loop, transport in self._transports.items():
            if loop is asyncio.get_running_loop():
                await transport.aclose()
            else:
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(transport.aclose(), loop))
        self._transports.clear()
        self._callers.clear()

    def complete_from_thread(self, request: Request) -> Response:
        """`complete` for a caller that cannot await."""
        return wait(self._complete(request))

    def stream_from_thread(self, request: Request) -> Iterator[Any]:
        """`stream` for a caller that cannot await."""
        events = self._stream(request)
        try:
            while (event := wait(anext(events, _END))) is not _END:
                yield event
        finally:
            background().submit(events.aclose())

    def reconnect(self, connect: Callable[[Transport], Caller]) -> None:
        """Later calls are made by what this returns: the key has changed."""
        self._connect = connect
        self._callers.clear()

    def _is_here(self) -> bool:
        loop = asyncio.get_running_loop()
        return loop is self.home or loop is background().loop

    async def _complete(self, request: Request) -> Response:
        caller, request = self._caller(), self.wired(request)
        response = await tried(lambda: caller.complete(request), self._model.most_retries)
        self._model.observe(response.usage)
        return response

    async def _stream(self, request: Request) -> AsyncGenerator[Any]:
        caller, request = self._caller(), self.wired(request)
        first, events = await tried(lambda: _begun(caller.stream(request)), self._model.most_retries)
        async with contextlib.aclosing(events):
            event = first
            while event is not _END:
                if event.type == "end" and event.usage is not None:
                    self._model.observe(event.usage)
                yield event
                event = await anext(events, _END)

    def wired(self, request: Request) -> Request:
        """The request with the provider's name of the model, and what DSPy has no word for."""
        if self._model.wire.extra:
            extensions = {**(request.config.extensions or {}), **self._model.wire.extra}
            request = replace(request, config=replace(request.config, extensions=extensions))
        return replace(request, model=self._model.name)

    def _caller(self) -> Caller:
        loop = asyncio.get_running_loop()
        caller = self._callers.get(loop)
        if caller is None:
            transport = self._transports.setdefault(loop, Transport(self._model.wire, self._model.silent_seconds))
            caller = self._callers[loop] = self._connect(transport)
        return caller


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


async def _begun(events: AsyncGenerator[Any]) -> tuple[Any, AsyncGenerator[Any]]:
    """The first event of a stream, and the stream."""
    try:
        return await anext(events, _END), events
    except BaseException:
        await events.aclose()
        raise


_END = object()
