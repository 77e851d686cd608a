"""One endpoint: a model at a provider, with connections, retries, breaker, hedge and throttle.

Programs call models from the loop of the requests, from loops that they run themselves, and from plain threads. A
connection belongs to one loop, so an endpoint is there once for each loop that calls are made on, and what decides
about calls belongs to that as well: no call on one loop changes it for another.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Protocol, TypeVar

from dspy._vendor.lm15.errors import error_class_for_code
from dspy.lm15 import (
    AuthError,
    BillingError,
    CapabilityError,
    CollectionLimitError,
    InvalidRequestError,
    LM15Error,
    RateLimitError,
    Request,
    Response,
    ServerError,
    ToolDerivationError,
    TransportError,
    UnsupportedModelError,
    Usage,
)

from dspy_runtime.endings import caused_by_timeout
from dspy_runtime.lm.breaker import Breaker, BreakerState
from dspy_runtime.lm.budget import MOST_SAVED, Budget
from dspy_runtime.lm.hedging import Hedge
from dspy_runtime.lm.prices import CostOf
from dspy_runtime.lm.providers import Wire
from dspy_runtime.lm.retries import tried
from dspy_runtime.lm.scope import is_at_deadline, used_up_deadline
from dspy_runtime.lm.throttle import Throttle
from dspy_runtime.lm.transport import Transport
from dspy_runtime.settings import BreakerSettings, HedgeSettings

T = TypeVar("T")
RETRY_PERCENT = 10.0
"""Of all calls may be made again, beyond a reserve: an outage is not made worse by whoever suffers from it."""

_OF_THE_REQUEST = (InvalidRequestError, CapabilityError, ToolDerivationError, CollectionLimitError)
"""Errors that every other endpoint would have as well."""

_RESULTS = (
    (RateLimitError, "rate_limit"),
    (ServerError, "server_error"),
    (AuthError, "auth"),
    (BillingError, "billing"),
)


_OPEN = "the endpoint failed too often of late: its circuit is open"


def never() -> bool:
    """False."""
    return False


class NotAskedError(TransportError):  # type: ignore[misc]
    """The endpoint is not asked: its circuit is open, or its provider takes no more at once."""


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
    longest_wait: float
    """Seconds for which a call may wait for its turn, or its next try: few where another endpoint stands in."""
    cost: CostOf
    has_stand_in: bool = False
    is_barred: Callable[[], bool] = never
    """Whether it is not to be asked now, for the sake of what it costs."""
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
        self._by_loop: dict[asyncio.AbstractEventLoop, LoopEndpoint] = {}

    def here(self) -> LoopEndpoint:
        """The endpoint as the running loop reaches it."""
        loop = asyncio.get_running_loop()
        found = self._by_loop.get(loop)
        if found is None:
            found = self._by_loop[loop] = LoopEndpoint(self.model, self._connect, self._observer)
        return found

    def reconnect(self, connect: Callable[[Transport], Caller]) -> None:
        """Later calls are made by what this returns: the key has changed."""
        self._connect = connect
        for each in list(self._by_loop.values()):
            each.caller = connect(each.transport)

    def state(self) -> BreakerState:
        """Of its breaker, for people: the worst of all loops."""
        return max((each.state() for each in list(self._by_loop.values())), default=BreakerState.CLOSED)

    async def aclose(self) -> None:
        """Closes the connections, after the last request."""
        for loop, each in self._by_loop.items():
            if loop is asyncio.get_running_loop():
                await each.transport.aclose()
            else:
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(each.transport.aclose(), loop))
        self._by_loop.clear()

    def wired(self, request: Request) -> Request:
        """The request with the provider's name of the model, and what DSPy has no word for."""
        if self.model.wire.extra:
            extensions = {**(request.config.extensions or {}), **self.model.wire.extra}
            request = replace(request, config=replace(request.config, extensions=extensions))
        return replace(request, model=self.model.name)


class LoopEndpoint:
    """An endpoint as one event loop reaches it."""

    def __init__(self, model: Model, connect: Callable[[Transport], Caller], observer: Observer) -> None:
        self.transport = Transport(model.wire, model.silent_seconds)
        self.caller = connect(self.transport)
        self._model = model
        self._observer = observer
        self._retries = Budget(RETRY_PERCENT, MOST_SAVED)
        self._throttle = Throttle()
        self._breaker = Breaker(model.breaker) if model.breaker else None
        self._hedge = Hedge(model.hedge, lambda: observer.hedged(model), self._may_hedge) if model.hedge else None

    def state(self) -> BreakerState:
        """Of its breaker."""
        return self._breaker.state(_now()) if self._breaker else BreakerState.CLOSED

    async def complete(self, request: Request) -> Response:
        """One answer, after as many tries as there may be. Raises NotAskedError."""
        answer = await self._tried(lambda: self._answer(request))
        self._observer.answered(self._model, answer.usage)
        return answer

    async def begin(self, request: Request) -> AsyncIterator[Any]:
        """The events of an answer, after the first that says something. It is tried again until then: what has been
        said cannot be taken back."""
        return await self._tried(lambda: self._begin(request))

    async def _answer(self, request: Request) -> Response:
        return await (self._hedge.first(lambda: self._ask(request)) if self._hedge else self._ask(request))

    async def _ask(self, request: Request) -> Response:
        with await self._go_out():
            return await self.caller.complete(request)

    async def _begin(self, request: Request) -> StreamedAnswer:
        call = await self._go_out()
        events = self.caller.stream(request)
        try:
            return StreamedAnswer(call, await _first_words(events), events)
        except BaseException as error:
            await events.aclose()
            call.end(error)
            raise

    async def _tried(self, call: Callable[[], Awaitable[T]]) -> T:
        self._retries.earn()
        return await tried(call, self._model.most_retries, self._may_retry, self._model.longest_wait)

    def _may_retry(self, error: Exception) -> bool:
        if isinstance(error, NotAskedError) or self.state() is BreakerState.OPEN:
            return False
        if self._model.has_stand_in and caused_by_timeout(error):  # another would be asked too late
            return False
        return self._retries.spend()

    def _may_hedge(self) -> bool:
        return not self._throttle.binds

    async def _go_out(self) -> Call:
        """Waits until a call may go out: the throttle first, for what the breaker admits is not to wait."""
        if self._model.is_barred():
            raise NotAskedError("the budget of the day is spent")
        if self.state() is BreakerState.OPEN:
            raise NotAskedError(_OPEN)
        longest = self._model.longest_wait if self._model.has_stand_in else None
        try:
            async with asyncio.timeout(longest):
                turn = await self._throttle.enter()
        except TimeoutError:
            raise NotAskedError("the endpoint's provider takes no more calls at once") from None
        ticket = self._breaker.admit(_now()) if self._breaker else 0
        if ticket is None:
            self._throttle.leave(turn)
            raise NotAskedError(_OPEN)
        return Call(self, ticket, turn)

    def end(self, call: Call, error: BaseException | None) -> None:
        """A call has ended, well or by an error."""
        seconds = _now() - call.began
        self._throttle.leave(call.turn, isinstance(error, RateLimitError), answered=error is None)
        self._observer.ended(self._model, _result(error))
        if self._breaker is None:
            return
        if error is None or isinstance(error, Exception):
            self._breaker.record(call.ticket, error is not None and is_fault(error), _now())
        elif used_up_deadline(seconds):
            self._breaker.record(call.ticket, True, _now())
        else:
            self._breaker.forget(call.ticket)

    def answered(self, usage: Usage) -> None:
        """A stream has told what its answer took."""
        self._observer.answered(self._model, usage)


class Call:
    """A call that went out: its turn at the throttle, its ticket at the breaker."""

    def __init__(self, endpoint: LoopEndpoint, ticket: int, turn: int) -> None:
        self.endpoint = endpoint
        self.ticket, self.turn = ticket, turn
        self.began = _now()
        self._ended = False

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end(error)

    def end(self, error: BaseException | None) -> None:
        """It has ended, once."""
        if not self._ended:
            self._ended = True
            self.endpoint.end(self, error)


class StreamedAnswer:
    """The events of an answer of which the first words have come. Whoever takes one closes it."""

    def __init__(self, call: Call, first: deque[Any], events: AsyncGenerator[Any]) -> None:
        self._call = call
        self._first = first
        self._events = events

    def __aiter__(self) -> StreamedAnswer:
        return self

    async def __anext__(self) -> Any:
        try:
            event = self._first.popleft() if self._first else await anext(self._events)
            if event.type == "error":
                raise _error_of(event)
        except StopAsyncIteration:
            self._call.end(None)
            raise
        except BaseException as error:
            self._call.end(error)
            raise
        if event.type == "end" and event.usage is not None:
            self._call.endpoint.answered(event.usage)
        return event

    async def aclose(self) -> None:
        """Nobody reads on."""
        await self._events.aclose()
        self._call.end(asyncio.CancelledError())


def is_fault(error: Exception) -> bool:
    """Whether the endpoint is to blame, so that another may do better; else it is the request itself."""
    own = isinstance(error, _OF_THE_REQUEST) and not isinstance(error, UnsupportedModelError)
    return isinstance(error, LM15Error) and not own


def _result(error: BaseException | None) -> str:
    """How a try ended, in the words of metrics."""
    if error is None:
        return "ok"
    if not isinstance(error, Exception):
        return "timeout" if is_at_deadline() else "cancelled"
    if caused_by_timeout(error):
        return "timeout"
    if isinstance(error, TransportError):
        return "unreachable"
    known = next((words for kind, words in _RESULTS if isinstance(error, kind)), None)
    return known or ("other" if is_fault(error) else "refused")


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _first_words(events: AsyncGenerator[Any]) -> deque[Any]:
    """The events until the first that says something, or is the last. Raises what an error among them stands for."""
    first: deque[Any] = deque()
    async for event in events:
        if event.type == "error":
            raise _error_of(event)
        first.append(event)
        if event.type != "start":
            return first
    raise ServerError("the provider's stream ended before its answer began")


def _error_of(event: Any) -> LM15Error:
    """What an error in a stream stands for, as DSPy's engine reads it."""
    error = event.error
    kind = error_class_for_code(error.code)
    if not issubclass(kind, LM15Error):
        return ServerError(error.message)
    wait = (error.http_response or {}).get("retry_after")
    seconds = wait if isinstance(wait, int | float) else None
    return kind(error.message, provider_code=error.provider_code, retry_after=seconds)
