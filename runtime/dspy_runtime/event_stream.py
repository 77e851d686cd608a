"""An answer as server-sent events: what a program says while it runs, then its answer or its error, and behind them the
outcome, as a trailer. A gateway reads that; clients need not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from pydantic_core import to_json
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dspy_contract.outcomes import OUTCOME_HEADER
from dspy_runtime import endings
from dspy_runtime.exchange import Exchange, Part, Parts

MEDIA_TYPE = "text/event-stream"
SILENT_SECONDS = 15.0
"""After so long without a part a comment tells proxies that somebody is there."""
_LAST_CHUNK = b"0\r\n\r\n"


class EventStream(StreamingResponse):
    """The response of an exchange that may still go on."""

    media_type = MEDIA_TYPE

    def __init__(
        self, exchange: Exchange, parts: Parts, work: asyncio.Future[None], longest: float, headers: dict[str, str]
    ) -> None:
        """`work` ends with the exchange, which nobody waits for longer than so many seconds since its start."""
        super().__init__(self._events(), headers={"cache-control": "no-cache", "x-accel-buffering": "no", **headers})
        self._exchange = exchange
        self._parts = parts
        self._work = work
        self._left = longest - (time.perf_counter() - exchange.started)

    async def stream_response(self, send: Send) -> None:
        """Sends it all. A client that leaves ends the exchange."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers, "trailers": True})
            async for event in self.body_iterator:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            assert self._exchange.ending is not None
            outcome = (OUTCOME_HEADER.encode(), self._exchange.ending.outcome.encode())
            await send({"type": "http.response.trailers", "headers": [outcome], "more_trailers": False})
        finally:
            self._work.cancel()

    async def _events(self) -> AsyncIterator[bytes]:
        try:
            async with asyncio.timeout(self._left):
                async for part in self._parts.heard(SILENT_SECONDS):
                    yield _event("part", to_json(_told(part))) if part else KEEPALIVE_COMMENT
                await asyncio.wait((self._work,))
        except TimeoutError:  # the program goes on after its deadline
            self._exchange = self._exchange.ended_early(endings.TIMEOUT)
        yield _event("prediction" if self._exchange.ending is endings.OK else "error", self._exchange.answer)


def _told(part: Part) -> dict[str, str]:
    return {"predictor": part.predictor, "field": part.field, "text": part.text}


def _event(name: str, content: bytes) -> bytes:
    return format_sse_event(event=name, data_str=content.decode())


def with_trailers(app: ASGIApp) -> ASGIApp:
    """An application whose trailers uvicorn sends over HTTP/1.1, which it knows of HTTP/2 only: they go out with the
    last chunk, which uvicorn writes by itself."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        last: Message | None = None
        is_expected = False

        async def sending(message: Message) -> None:
            nonlocal last, is_expected
            if message["type"] == "http.response.trailers":
                assert last is not None
                cycle = send.__self__  # type: ignore[attr-defined]
                cycle.transport = _WithTrailers(cycle.transport, message["headers"])
                message = last
            elif message["type"] == "http.response.start":
                is_expected = message.get("trailers", False)
            elif is_expected and not message.get("more_body", False):
                last = message
                return
            await send(message)

        await app(scope, receive, sending)

    return application


class _WithTrailers:
    """A connection on which the last chunk is followed by trailers."""

    def __init__(self, transport: asyncio.Transport, headers: list[tuple[bytes, bytes]]) -> None:
        self._transport = transport
        self._trailers = b"".join(b"%b: %b\r\n" % header for header in headers)

    def write(self, data: bytes) -> None:
        self._transport.write(data.replace(_LAST_CHUNK, b"0\r\n" + self._trailers + b"\r\n"))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
