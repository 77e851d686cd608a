"""An answer as server-sent events: what a program says while it runs, then its answer or its error, and behind them the
outcome, as a trailer. A gateway reads that; clients need not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from pydantic_core import to_json
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dspy_runtime.exchange import Exchange, Parts, abandon

MEDIA_TYPE = "text/event-stream"
REQUEST_ID_HEADER = "x-dspy-request-id"
SILENT_SECONDS = 15.0
"""After so long without a part a comment tells proxies that somebody is there."""


class EventStream(StreamingResponse):
    """The response of an exchange that may still go on."""

    media_type = MEDIA_TYPE

    def __init__(
        self,
        exchange: Exchange,
        parts: Parts,
        work: asyncio.Future[None],
        until: float,
        ended_early: Callable[[], Exchange],
    ) -> None:
        """`work` ends with the exchange. Nobody waits for it after this time of the loop: then it has `ended_early`."""
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no", REQUEST_ID_HEADER: exchange.request_id}
        super().__init__(self._events(), headers=headers)
        self._exchange = exchange
        self._parts = parts
        self._work = work
        self._until = until
        self._ended_early = ended_early

    async def stream_response(self, send: Send) -> None:
        """Sends it all. A client that leaves ends the exchange."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers, "trailers": True})
            async for event in self.body_iterator:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            told = [(name.encode(), value.encode()) for name, value in self._exchange.told().items()]
            await send({"type": "http.response.trailers", "headers": told, "more_trailers": False})
        finally:
            abandon(self._exchange, self._work)

    async def _events(self) -> AsyncIterator[bytes]:
        """Nothing here bounds how long sending takes: that is for the client and the gateway, as of other answers."""
        async for part in self._parts.follow(SILENT_SECONDS, self._until):
            yield _event("part", to_json(asdict(part))) if part else KEEPALIVE_COMMENT
        if not self._work.done():  # the program goes on after its deadline
            abandon(self._exchange, self._work)
            self._exchange = self._ended_early()
        ending = self._exchange.ending
        yield _event("prediction" if ending is not None and ending.status == 200 else "error", self._exchange.answer)


def _event(name: str, content: bytes) -> bytes:
    return format_sse_event(event=name, data_str=content.decode())


def with_trailers(app: ASGIApp) -> ASGIApp:
    """An application whose trailers uvicorn sends over HTTP/1.1, which it knows of HTTP/2 only: the last chunk and they
    go out as if the body were no chunks."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        follow = False

        async def sending(message: Message) -> None:
            nonlocal follow
            if message["type"] == "http.response.start":
                follow = message.get("trailers", False)
            elif message["type"] == "http.response.trailers":
                end = b"0\r\n" + b"".join(b"%b: %b\r\n" % header for header in message["headers"]) + b"\r\n"
                cycle = send.__self__  # type: ignore[attr-defined]
                cycle.chunked_encoding, cycle.expected_content_length = False, len(end)
                message = {"type": "http.response.body", "body": end, "more_body": False}
            elif follow and not message.get("more_body", False):
                return  # the trailers end the body
            await send(message)

        await app(scope, receive, sending)

    return application
