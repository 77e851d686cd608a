"""One endpoint: a model at a provider, with connections, retries, breaker, hedge and throttle.

Programs call models from the loop of the requests, from loops that they run themselves, and from plain threads. A
connection belongs to one loop, so an endpoint has a line for each loop that calls are made on, and what decides about
calls belongs to the line as well: nothing of it is shared by threads.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from dspy.lm15 import (
    RETRYABLE_ERRORS,
    AuthError,
    BillingError,
    RateLimitError,
    Request,
    Response,
    ServerError,
    TransportError,
    UnsupportedModelError,
    Usage,
)

from dspy_runtime.lm.allowance import Allowance
from dspy_runtime.lm.breaker import Breaker, Position
from dspy_runtime.lm.hedging import Hedge
from dspy_runtime.lm.prices import CostOf
from dspy_runtime.lm.providers import Wire
from dspy_runtime.lm.retries import tried
from dspy_runtime.lm.scope import is_late
from dspy_runtime.lm.throttle import Throttle
from dspy_runtime.lm.transport import Transport
from dspy_runtime.settings import BreakerSettings, HedgeSettings

T = TypeVar("T")
RETRY_PERCENT = 10.0
"""Of all calls may be made again, beyond a reserve: an outage is not made worse by whoever suffers from it."""
FAULTS = (*RETRYABLE_ERRORS, AuthError, BillingError, UnsupportedModelError)
"""Errors of the endpoint, which another one may not have. Others are the request's own."""
_OUTCOMES = (
    (RateLimitError, "rate_limit"),
    (TimeoutError, "timeout"),
    (TransportError, "unreachable"),
    (ServerError, "server_error"),
    (AuthError, "auth"),
    (BillingError, "billing"),
)


class CircuitOpenError(TransportError):  # type: ignore[misc]
    """The endpoint failed too often of late, and is not asked."""


class Caller(Protocol):
    """One try of a call at a provider, on one event loop."""

    async def complete(self, request: Request) -> Response:
        """The whole answer."""
        ...

    def stream(self, request: Request) -> AsyncGenerator[Any]:
        """The answer's events as they come."""
        ...


@dataclass(frozen=True, slots=True)
class Model:
    """What every call of one endpoint has in common."""

    label: str
    """What people and metrics call it."""
    name: str
    """As the provider calls it."""
    is_fallback: bool
    """Whether it stands in for another."""
    wire: Wire
    silent_seconds: float
    """How long the provider may send nothing."""
    most_retries: int
    patience_seconds: float
    """How long a call may wait for its next try."""
    cost: CostOf
    breaker: BreakerSettings | None = None
    hedge: HedgeSettings | None = None


class Observer(Protocol):
    """Told of every call, whoever made it: DSPy's own tracker loses the tokens of threads and of requests whose client
    left."""

    def answered(self, model: Model, usage: Usage) -> None:
        """An answer came, and that is what it took."""
        ...

    def ended(self, model: Model, outcome: str) -> None:
        """A try ended so."""
        ...

    def hedged(self, model: Model) -> None:
        """A second call was made beside one that takes long."""
        ...


class Unobserved:
    """An observer that tells nobody."""

    def answered(self, model: Model, usage: Usage) -> None:
        """Nothing."""

    def ended(self, model: Model, outcome: str) -> None:
        """Nothing."""

    def hedged(self, model: Model) -> None:
        """Nothing."""


class Endpoint:
    """A model at a provider."""

    def __init__(self, model: Model, connect: Callable[[Transport], Caller], observer: Observer) -> None:
        self.model = model
        self._connect = connect
        self._observer = observer
        self._lines: dict[asyncio.AbstractEventLoop, Line] = {}

    def line(self) -> Line:
        """That of the running loop."""
        loop = asyncio.get_running_loop()
        line = self._lines.get(loop)
        if line is None:
            line = self._lines[loop] = Line(self.model, self._connect, self._observer)
        return line

    def reconnect(self, connect: Callable[[Transport], Caller]) -> None:
        """Later calls are made by what this returns: the key has changed."""
        self._connect = connect
        for line in list(self._lines.values()):
            line.caller = connect(line.transport)

    def position(self) -> Position:
        """Where its breaker stands, for people: the worst of its lines."""
        return max((line.position() for line in list(self._lines.values())), default=Position.CLOSED)

    async def aclose(self) -> None:
        """Closes the connections, after the last request."""
        for loop, line in self._lines.items():
            if loop is asyncio.get_running_loop():
                await line.transport.aclose()
            else:
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(line.transport.aclose(), loop))
        self._lines.clear()

    def wired(self, request: Request) -> Request:
        """The request with the provider's name of the model, and what DSPy has no word for."""
        if self.model.wire.extra:
            extensions = {**(request.config.extensions or {}), **self.model.wire.extra}
            request = replace(request, config=replace(request.config, extensions=extensions))
        return replace(request, model=self.model.name)


class Line:
    """An endpoint as it is reached from one event loop."""

    def __init__(self, model: Model, connect: Callable[[Transport], Caller], observer: Observer) -> None:
        self.transport = Transport(model.wire, model.silent_seconds)
        self.caller = connect(self.transport)
        self._model = model
        self._observer = observer
        self._allowance = Allowance(RETRY_PERCENT)
        self._throttle = Throttle()
        self._breaker = Breaker(model.breaker) if model.breaker else None
        self._hedge = Hedge(model.hedge, lambda: observer.hedged(model)) if model.hedge else None

    def position(self) -> Position:
        """Where its breaker stands."""
        return self._breaker.position(_now()) if self._breaker else Position.CLOSED

    async def complete(self, request: Request) -> Response:
        """One answer, after as many tries as there may be. Raises CircuitOpenError where the endpoint is not asked."""
        answer = await self._tried(lambda: self._guarded(lambda: self._answer(request)))
        self._observer.answered(self._model, answer.usage)
        return answer

    async def begin(self, request: Request) -> AsyncGenerator[Any]:
        """The events of an answer, after the first has come. It is tried again until then: what has been said cannot be
        taken back."""
        first, events = await self._tried(lambda: self._guarded(lambda: _begun(self.caller.stream(request))))
        return self._events(first, events)

    async def _events(self, first: Any, events: AsyncGenerator[Any]) -> AsyncGenerator[Any]:
        async with contextlib.aclosing(events):
            event = first
            while event is not END:
                if event.type == "end" and event.usage is not None:
                    self._observer.answered(self._model, event.usage)
                yield event
                event = await anext(events, END)

    async def _answer(self, request: Request) -> Response:
        if self._hedge is None:
            return await self.caller.complete(request)
        return await self._hedge.first(lambda: self.caller.complete(request))

    async def _tried(self, call: Callable[[], Awaitable[T]]) -> T:
        self._allowance.earn()
        return await tried(call, self._model.most_retries, self._may_retry, self._model.patience_seconds)

    def _may_retry(self, error: Exception) -> bool:
        is_open = isinstance(error, CircuitOpenError) or self.position() is Position.OPEN
        return not is_open and self._allowance.spend()

    async def _guarded(self, call: Callable[[], Awaitable[T]]) -> T:
        """A try, when breaker and throttle let it go out; both learn how it ends."""
        ticket = self._breaker.admit(_now()) if self._breaker else 0
        if ticket is None:
            raise CircuitOpenError("the endpoint failed too often of late: its circuit is open")
        turn = None
        try:
            turn = await self._throttle.enter()
            answer = await call()
        except BaseException as error:
            self._end(ticket, turn, error)
            raise
        self._end(ticket, turn, None)
        return answer

    def _end(self, ticket: int, turn: int | None, error: BaseException | None) -> None:
        failed = _is_fault(error)
        if turn is not None:
            self._throttle.leave(turn, isinstance(error, RateLimitError))
            self._observer.ended(self._model, outcome_of(error))
        if self._breaker is None:
            return
        if turn is None or failed is None:
            self._breaker.forget(ticket)
        else:
            self._breaker.record(ticket, failed, _now())


def outcome_of(error: BaseException | None) -> str:
    """How a try ended, in the words of metrics."""
    if error is None:
        return "ok"
    if not isinstance(error, Exception):
        return "timeout" if is_late() else "cancelled"
    return next((words for kind, words in _OUTCOMES if isinstance(error, kind)), "refused")


def _is_fault(error: BaseException | None) -> bool | None:
    """Whether the endpoint is to blame; None for a call that was called off before anybody could know."""
    if error is None or isinstance(error, Exception):
        return isinstance(error, FAULTS)
    return True if is_late() else None


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _begun(events: AsyncGenerator[Any]) -> tuple[Any, AsyncGenerator[Any]]:
    try:
        return await anext(events, END), events
    except BaseException:
        await events.aclose()
        raise


END = object()
"""After the last event of a stream."""
