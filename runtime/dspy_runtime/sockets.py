"""Predictions over WebSockets: one after the other on a connection, each told as it comes.

A client sends an input as JSON, and is sent `{"event": "part", "data": ...}` as often as there is something to tell,
then `prediction` or `error` with what `/predict` answers: what server-sent events tell, in another form.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import Any, TypeVar

from pydantic_core import to_json
from starlette.websockets import WebSocket, WebSocketDisconnect

from dspy_runtime.exchange import Exchange, Parts, abandon

T = TypeVar("T")
RESTARTS = 1012
"""The code by which a server that restarts closes."""
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
        """Serves a connection until its client leaves it, or until a prediction ends after `drain`."""
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
    """One connection. One message more than the one that is answered is read: so it is seen when the client leaves."""

    def __init__(self, socket: WebSocket, begin: Begin, ended_early: EndedEarly) -> None:
        self._socket = socket
        self._begin = begin
        self._ended_early = ended_early
        self._inputs: asyncio.Queue[bytes] = asyncio.Queue(1)

    async def serve(self, closing: asyncio.Event) -> None:
        reading = asyncio.ensure_future(self._read())
        closed = asyncio.ensure_future(closing.wait())
        try:
            while (body := await _first(self._inputs.get(), reading, closed)) is not None:
                await _first(self._answer(body), reading)
            if not reading.done():
                await self._socket.close(RESTARTS)
        finally:
            reading.cancel()
            closed.cancel()

    async def _read(self) -> None:
        """Reads inputs until the client leaves."""
        while (message := await self._socket.receive())["type"] != "websocket.disconnect":
            text = message.get("text")
            await self._inputs.put(message["bytes"] if text is None else text.encode())

    async def _answer(self, body: bytes) -> None:
        parts = Parts()
        exchange, work, until = self._begin(body, parts)
        try:
            async for part in parts.follow(SILENT_SECONDS, until):
                if part is not None:
                    await self._tell("part", to_json(asdict(part)))
            if not work.done():  # the program goes on after its deadline
                exchange = self._ended_early(exchange)
            assert exchange.ending is not None
            await self._tell("prediction" if exchange.ending.status == 200 else "error", exchange.answer)
        except WebSocketDisconnect:
            return
        finally:
            abandon(exchange, work)

    async def _tell(self, event: str, content: bytes) -> None:
        await self._socket.send_text(f'{{"event":"{event}","data":{content.decode()}}}')


async def _first(work: Coroutine[Any, Any, T], *others: asyncio.Future[Any]) -> T | None:
    """What the work gives; None, and its end, when one of the others is done before."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task, *others}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
