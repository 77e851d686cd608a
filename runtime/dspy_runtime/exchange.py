"""One request on its way through the stages: each fills in what the inner ones need, and any may end it."""

from __future__ import annotations

import asyncio
import functools
import math
import secrets
import time
import traceback
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from opentelemetry.context import Context
from pydantic_core import to_json

from dspy_contract.outcomes import (
    CACHE_HEADER,
    COST_HEADER,
    FLAGS_HEADER,
    LM_HEADER,
    OUTCOME_HEADER,
    SCORE_HEADER,
    TOKENS_HEADER,
    Outcome,
)
from dspy_runtime import endings
from dspy_runtime.admission import Place, Priority
from dspy_runtime.endings import Ending
from dspy_runtime.lm.scope import RequestGone

LONGEST_CLIENT_ID = 100
MOST_CHARACTERS = 64 << 10
"""That wait for a client. A program whose client reads more slowly waits as well."""


def _new_id() -> str:
    return secrets.token_hex(8)


def abandon(exchange: Exchange, work: asyncio.Future[Any]) -> None:
    """Nobody waits for an exchange any more, though it may go on."""
    exchange.abandoned = True
    work.cancel()


class CacheUse(StrEnum):
    """What a request lets the cache do."""

    FULL = "full"
    REFRESH = "refresh"
    """It is answered anew, and the answer kept."""
    JUDGED = "judged"
    """The same, at the gateway's wish and not the client's: an answer that is kept is better than none."""
    NONE = "none"


class Cached(StrEnum):
    """What the cache had to do with an answer."""

    HIT = "hit"
    MISS = "miss"
    BYPASS = "bypass"
    """It was not asked."""
    STALE = "stale"
    """It had an old one, and nobody a new one."""


class Held(Protocol):
    """Bytes that are counted somewhere."""

    def release(self) -> None:
        """They are counted no more."""


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a field of the answer, and the predictor that said it."""

    predictor: str
    field: str
    text: str


class Parts:
    """What comes before the whole answer, on its way from the program to a client that reads along."""

    def __init__(self) -> None:
        self._waiting: deque[Part] = deque()
        self._characters = 0
        self._news, self._room = asyncio.Event(), asyncio.Event()
        self._finished = False
        self.begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when there is one: from then on the client has the head of an answer, and it can only go on."""

    async def put(self, part: Part) -> None:
        """Tells the client, as soon as there is room. Raises RequestGone when the request has ended: nobody reads."""
        while self._characters > MOST_CHARACTERS and not self._finished:
            self._room.clear()
            await self._room.wait()
        if self._finished:
            raise RequestGone
        last = self._waiting[-1] if self._waiting else None
        if last is not None and (last.predictor, last.field) == (part.predictor, part.field):
            self._waiting[-1] = Part(part.predictor, part.field, last.text + part.text)
        else:
            self._waiting.append(part)
        self._characters += len(part.text)
        self._news.set()
        if not self.begun.done():
            self.begun.set_result(None)
        await asyncio.sleep(0)  # a model that has said much says it in turns with other requests

    def finish(self) -> None:
        """The request has ended: no other will come."""
        self._finished = True
        self._news.set()
        self._room.set()

    async def follow(self, silent_seconds: float, until: float) -> AsyncIterator[Part | None]:
        """Each part until the last, or until a time of the loop; None after so many seconds without one."""
        loop = asyncio.get_running_loop()
        while True:
            while self._waiting:
                part = self._waiting.popleft()
                self._characters -= len(part.text)
                self._room.set()
                yield part
            if self._finished or loop.time() >= until:
                return
            self._news.clear()
            try:
                async with asyncio.timeout_at(min(loop.time() + silent_seconds, until)):
                    await self._news.wait()
            except TimeoutError:
                if loop.time() < until:
                    yield None


@dataclass(slots=True)
class Exchange:
    """A request and its answer.

    `request_id` is ours, so that no two requests share it; `client_request_id` is what the client calls it.
    """

    client_request_id: str = ""
    request_id: str = field(default_factory=_new_id)
    started: float = field(default_factory=time.perf_counter)
    """In seconds of time.perf_counter."""
    most_seconds: float = math.inf
    """How long its client wants to wait."""
    priority: Priority = Priority.NORMAL
    """How urgent it is."""
    late: Ending = endings.TIMEOUT
    """How it ends when its time is over."""
    deadline: float = math.inf
    """When it must have ended, in seconds of time.monotonic."""
    trace: Context | None = None
    """The trace that it belongs to, if its client names one."""
    parts: Parts | None = None
    """Of an answer that is read as it comes, whose outcome is known after its first byte; else None."""
    body: bytes = b""
    arguments: dict[str, Any] = field(default_factory=dict)
    held: Held | None = None
    """What is counted of its body until it has a place."""
    place: Place | None = None
    """None until there is one."""
    queued: bool = False
    """Whether it waits for a place."""
    result: Any = None
    answer: bytes = b""
    flags: tuple[str, ...] = ()
    """What the program says of its answer besides."""
    tokens: int = 0
    """What it took, as far as language models told."""
    cost: int | None = None
    """What it cost, in billionths of a US dollar; None where nobody knows."""
    models: tuple[str, ...] = ()
    """The language models that answered, where more than one may."""
    score: float | None = None
    """How good the program thinks its answer is, if it says so."""
    cache_use: CacheUse = CacheUse.FULL
    cached: Cached | None = None
    """None where there is no cache."""
    stale: bytes = b""
    """An old answer, should there be no new one."""
    ending: Ending | None = None
    abandoned: bool = False
    """Whether nobody waits for it any more."""
    error: BaseException | None = None
    """What was raised, if that is why it ended."""

    def __post_init__(self) -> None:
        self.client_request_id = self.client_request_id[:LONGEST_CLIENT_ID]

    def end(
        self, ending: Ending, fields: list[dict[str, str]] | None = None, error: BaseException | None = None
    ) -> None:
        """Ends it with an answer that is none: outcome, code, message, and the fields that are wrong."""
        self.ending, self.error = ending, error
        said: dict[str, Any] = {
            "outcome": ending.outcome,
            "code": ending.code,
            "message": ending.message,
            "requestId": self.request_id,
        }
        self.answer = to_json({"error": said | ({"fields": fields} if fields else {})})

    def told(self) -> dict[str, str]:
        """What gateways are told of an exchange that has ended, by header or trailer."""
        assert self.ending is not None
        good = self.ending.outcome == Outcome.OK  # what a call took that broke off nobody has told
        said = {
            OUTCOME_HEADER: self.ending.outcome,
            FLAGS_HEADER: ",".join(self.flags),
            TOKENS_HEADER: str(self.tokens or ""),
            COST_HEADER: str(self.cost) if good and self.cost is not None else "",
            LM_HEADER: ",".join(self.models),
            CACHE_HEADER: str(self.cached or ""),
            SCORE_HEADER: f"{self.score:.6f}" if good and self.score is not None else "",
        }
        return {name: value for name, value in said.items() if value}

    def part(self, body: bytes) -> Exchange:
        """A part of it, that is carried by itself."""
        told = self.client_request_id
        return Exchange(
            told, priority=self.priority, late=self.late, trace=self.trace, cache_use=self.cache_use, body=body
        )

    def let_go(self) -> None:
        """Its body is no longer what counts: it has a place, or has ended."""
        if self.held is not None:
            self.held.release()
            self.held = None

    def forget(self) -> None:
        """Lets go of all but the answer: an exception holds its frames, and they hold the request, until Python looks
        for cycles."""
        if self.error is not None:
            traceback.clear_frames(self.error.__traceback__)
        self.let_go()
        self.error = self.result = None
        self.arguments, self.body, self.stale = {}, b"", b""


Next = Callable[[Exchange], Awaitable[None]]
Stage = Callable[[Exchange, Next], Awaitable[None]]
"""One step of every request, around those inside it. It ends the exchange, or leaves it to the next. What it raises is
the program's error."""


def chained(stages: Sequence[Stage], last: Next) -> Next:
    """The stages, from the outermost, around what is innermost."""
    inner = last
    for stage in reversed(stages):
        inner = functools.partial(_call, stage, inner)
    return inner


async def _call(stage: Stage, inner: Next, exchange: Exchange) -> None:
    await stage(exchange, inner)
