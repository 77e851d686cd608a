"""Predictions over WebSockets: one after the other on a connection, each told as it comes.

A client sends an input as JSON, and is sent `{"event": "part", "data": ...}` as often as there is something to tell,
then `prediction` or `error` with what `/predict` answers: what server-sent events tell, in another form.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic_core import to_json
from starlette.websockets import WebSocket, WebSocketDisconnect

from dspy_runtime.exchange import Exchange, Parts, abandon

T = TypeVar("T")
RESTARTS, REFUSED = 1012, 1008
"""The codes by which a server closes that restarts, or whose client sends what it may not."""
MOST_AHEAD = 2
"""Inputs that may wait while one is answered."""
SILENT_SECONDS = 3_600.0
"""The server's pings say that somebody is there: nothing else need be sent where there is nothing to tell."""

Begin = Callable[[bytes, Parts], tuple[Exchange, asyncio.Future[None], float]]
"""Has an input carried: its exchange, the work that ends with it, and until when anybody waits (time of the loop)."""
EndedEarly = Callable[[Exchange], Exchange]


class Sockets:
    """The connections that are open."""

    def __init__(self) -> None:
        self._closing = asyncio.Event()
        self._open: set[asyncio.Task[None]] = set()

    async def serve(self, socket: WebSocket, begin: Begin, ended_early: EndedEarly) -> None:
        """Serves a connection until its client leaves it, or until a prediction ends after `drain`. None is opened from
        a page of another site: a browser would let it read the answers."""
        if _is_foreign(socket):
            await socket.close(REFUSED)
            return
        await socket.accept()
        serving = asyncio.create_task(_Connection(socket, begin, ended_early).serve(self._closing))
        self._open.add(serving)
        serving.add_done_callback(self._open.discard)
        await serving

    async def drain(self, seconds: float) -> None:
        """Closes every connection, each as soon as its prediction has ended."""
        self._closing.set()
        if self._open:
            await asyncio.wait(self._open, timeout=seconds)


class _Connection:
    """One connection. It is read while a prediction is made: so it is seen when the client leaves."""

    def __init__(self, socket: WebSocket, begin: Begin, ended_early: EndedEarly) -> None:
        self._socket = socket
        self._begin = begin
        self._ended_early = ended_early
        self._inputs: asyncio.Queue[bytes] = asyncio.Queue(MOST_AHEAD)

    async def serve(self, closing: asyncio.Event) -> None:
        reading = asyncio.ensure_future(self._read())
        closed = asyncio.ensure_future(closing.wait())
        try:
            while not closing.is_set():
                body = await _first(self._inputs.get(), reading, closed)
                if body is None:
                    break
                await _first(self._answer(body), reading)
            if not reading.done():
                await self._socket.close(RESTARTS)
        finally:
            reading.cancel()
            closed.cancel()

    async def _read(self) -> None:
        """Reads inputs until the client leaves, or sends more of them ahead than MOST_AHEAD."""
        while (message := await self._socket.receive())["type"] != "websocket.disconnect":
            if self._inputs.full():
                await self._socket.close(REFUSED, "too many inputs are sent ahead")
                return
            text = message.get("text")
            self._inputs.put_nowait(message["bytes"] if text is None else text.encode())

    async def _answer(self, body: bytes) -> None:
        parts = Parts()
        exchange, work, until = self._begin(body, parts)
        try:
            async for part in parts.follow(SILENT_SECONDS, until):
                if part is not None:
                    await self._tell("part", to_json(asdict(part)))
            # A program may go on after its deadline.
            ended = exchange if work.done() else self._ended_early(exchange)
            assert ended.ending is not None
            await self._tell("prediction" if ended.ending.status == 200 else "error", ended.answer)
        except WebSocketDisconnect:
            return
        finally:
            abandon(exchange, work)

    async def _tell(self, event: str, content: bytes) -> None:
        await self._socket.send_text(f'{{"event":"{event}","data":{content.decode()}}}')


def _is_foreign(socket: WebSocket) -> bool:
    origin = socket.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != socket.headers.get("host", "")


async def _first(work: Coroutine[Any, Any, T], *others: asyncio.Future[Any]) -> T | None:
    """What the work gives; None, and its end, when one of the others is done before."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task, *others}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
