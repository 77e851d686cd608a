"""The two HTTP applications: predictions for everybody, probes and metrics for the cluster."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Callable
from importlib import metadata
from typing import Any

from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.openapi.docs import get_swagger_ui_html
from prometheus_client import generate_latest
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.staticfiles import StaticFiles

from dspy_contract.description import CACHE_PATH, DESCRIPTION_PATH, STANDSTILL_PATH
from dspy_contract.outcomes import CACHE_HEADER, DEADLINE_HEADER, PRIORITY_HEADER
from dspy_runtime import batch, endings, openapi, scoring
from dspy_runtime.admission import Priority
from dspy_runtime.endings import Ending, UnfitInputError
from dspy_runtime.event_stream import MEDIA_TYPE, REQUEST_ID_HEADER, EventStream
from dspy_runtime.exchange import CacheUse, Exchange, Parts, abandon
from dspy_runtime.lm import trace_context
from dspy_runtime.service import PredictionService
from dspy_runtime.settings import Settings

LARGEST_BODY_BYTES = 16 << 20
UPLOADS_BYTES = 128 << 20
"""Of all bodies of requests that have no place yet."""
SMALL_BYTES = 64 << 10
"""Of one body that is taken whatever the others hold: clients that stall shut out none that is small."""
RowsOf = Callable[[bytes], list[Any]]
"""The rows of a request's body. Raises UnfitInputError."""
Answered = Callable[[Exchange, list[Exchange]], None]
"""Ends a request by the exchanges of its rows, which have ended."""

GRACE_SECONDS = 1.0
"""Beyond its deadline a program that does not end with it is waited for no longer."""
UPLOAD_SECONDS = 30.0
"""A body that takes longer keeps nobody's place, but memory."""


def prediction_app(service: PredictionService) -> FastAPI:
    """What clients ask: `POST /predict`, many at once, as MLflow's clients do, and what the program takes."""
    app = FastAPI(title="DSPy program", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    door = Door(service)
    title = service.settings.program or service.settings.revision or "DSPy program"
    described = openapi.document(service.schema.document(), title)
    # The page and its parts name each other by relative addresses, whatever is before them, and come from nowhere else.
    app.mount("/swagger", StaticFiles(packages=[("fastapi_swagger", "resources")]))
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=title,
        swagger_js_url="swagger/swagger-ui-bundle.js",
        swagger_css_url="swagger/swagger-ui.css",
        swagger_favicon_url="swagger/favicon-32x32.png",
    )

    @app.get("/openapi.json")
    async def describe_paths() -> dict[str, Any]:
        return described

    @app.get("/docs")
    async def docs() -> Response:
        return page

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        return await door.one(request)

    @app.websocket("/predict/ws")
    async def predict_socket(socket: WebSocket) -> None:
        await door.socket(socket)

    @app.post("/predict/batch")
    async def predict_batch(request: Request) -> Response:
        return await door.many(request, batch.rows_of, batch.answered)

    @app.post("/invocations")
    async def invocations(request: Request) -> Response:
        return await door.many(request, functools.partial(scoring.rows_of, fits=service.schema.takes), scoring.answered)

    @app.get("/ping")
    async def ping() -> Response:
        return Response("\n") if service.ready else Response("starting or draining\n", 503)

    @app.get("/version")
    async def version() -> Response:
        return Response(metadata.version("mlflow-skinny"))

    @app.get("/schema")
    async def describe() -> dict[str, Any]:
        return service.describe()

    return app


_MILLISECONDS = re.compile("[1-9][0-9]{0,8}")
_PRIORITIES = {"high": Priority.HIGH, "normal": Priority.NORMAL, "low": Priority.LOW}


class Door:
    """Takes requests in: reads them, has them carried, and answers as soon as they have ended or nobody waits."""

    def __init__(self, service: PredictionService) -> None:
        self._service = service
        self._uploads = Uploads()
        self._batches = batch.Batches(service.pipeline, service.settings)

    async def one(self, request: Request) -> Response:
        """One prediction, as a whole or as it comes."""
        # A client of HTTP/1.0 knows neither chunks nor what follows them.
        follows = MEDIA_TYPE in request.headers.get("accept", "") and request.scope["http_version"] != "1.0"
        exchange = await self._taken(request, parts=(parts := Parts() if follows else None))
        if exchange.ending is not None:
            return _response(exchange)
        seconds = self._longest(exchange)
        until = asyncio.get_running_loop().time() + seconds
        work = asyncio.ensure_future(self._service.pipeline.carry(exchange))
        leaving = asyncio.ensure_future(request.receive())
        if parts is not None:
            work.add_done_callback(lambda _: parts.finish())
        try:
            waited = (work, leaving) if parts is None else (work, leaving, parts.begun)
            await asyncio.wait(waited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
            if parts is not None and not leaving.done() and (_is_answered(exchange) or parts.begun.done()):
                return EventStream(exchange, parts, work, until, lambda: self._ended_early(exchange, exchange.late))
            return _response(exchange) if work.done() else self._left(exchange, work, leaving)
        finally:
            leaving.cancel()

    async def many(self, request: Request, rows_of: RowsOf, answered: Answered) -> Response:
        """Several predictions at once."""
        exchange = await self._taken(request)
        if exchange.ending is not None:
            return _response(exchange)
        try:
            rows = rows_of(exchange.body)
        except UnfitInputError as error:
            exchange.end(*endings.of_invalid_input(error))
            self._service.pipeline.finish(exchange)
            return _response(exchange)
        work = asyncio.ensure_future(self._batches.carry(exchange, rows))
        leaving = asyncio.ensure_future(request.receive())
        try:
            await asyncio.wait((work, leaving), timeout=self._longest(exchange), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                return self._left(exchange, work, leaving)
            answered(exchange, work.result())
            return _response(exchange)
        finally:
            exchange.let_go()
            leaving.cancel()

    async def socket(self, socket: WebSocket) -> None:
        """Predictions one after the other, told as they come."""

        def begin(body: bytes, parts: Parts) -> tuple[Exchange, asyncio.Future[None], float]:
            exchange = _exchange(socket.headers, parts)
            exchange.cache_use = CacheUse.FULL  # browsers send no-cache with every handshake
            refused = _told_by_headers(socket.headers, exchange, self._service.settings)
            refused = refused or self._uploads.take(body, exchange)
            if refused is not None:
                self._refuse(exchange, refused)
            work = asyncio.ensure_future(_nothing() if refused else self._service.pipeline.carry(exchange))
            work.add_done_callback(lambda _: parts.finish())
            return exchange, work, asyncio.get_running_loop().time() + self._longest(exchange)

        await self._service.sockets.serve(socket, begin, lambda exchange: self._ended_early(exchange, exchange.late))

    async def _taken(self, request: Request, parts: Parts | None = None) -> Exchange:
        """A request that was read; one that is not taken has ended."""
        exchange = _exchange(request.headers, parts)
        refused = _told_by_headers(request.headers, exchange, self._service.settings)
        refused = refused or await self._uploads.read(request, exchange)
        if refused is not None:
            self._refuse(exchange, refused)
        return exchange

    def _refuse(self, exchange: Exchange, refused: Ending) -> None:
        exchange.end(refused)
        self._service.pipeline.finish(exchange)

    def _longest(self, exchange: Exchange) -> float:
        return min(self._service.settings.timeout_seconds, exchange.most_seconds) + GRACE_SECONDS

    def _left(self, exchange: Exchange, work: asyncio.Future[Any], leaving: asyncio.Future[Any]) -> Response:
        """The answer of what goes on: its client has left, or its time is over."""
        abandon(exchange, work)
        return _response(self._ended_early(exchange, endings.CANCELLED if leaving.done() else exchange.late))

    def _ended_early(self, exchange: Exchange, ending: Ending) -> Exchange:
        return self._service.pipeline.ended_early(exchange, ending)


def probe_app(service: PredictionService) -> FastAPI:
    """Probes, `/metrics`, `/description`, `/standstill` and `/cache`. Ready means: loaded, language model
    configured, not draining."""
    app = FastAPI(title="Probes", openapi_url=None, docs_url=None, redoc_url=None)

    @app.get("/livez")
    async def livez() -> Response:
        return Response("ok") if service.is_alive() else Response("the program hangs", 503)

    @app.get("/readyz")
    async def readyz() -> Response:
        return Response("ok") if service.ready else Response("starting or draining", 503)

    @app.get(DESCRIPTION_PATH)
    async def describe() -> dict[str, Any]:
        return service.left_out()

    @app.get(STANDSTILL_PATH)
    async def stood_still() -> dict[str, Any] | None:
        return service.watchdog.standstill()

    @app.delete(CACHE_PATH)
    async def forget() -> Response:
        """Forgets the answers that are kept, in this pod and, where that is said by 200, in all pods."""
        everywhere = await service.forget_answers()
        return Response("forgotten") if everywhere else Response("Redis does not answer: only this pod's are", 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(service.metrics.registry), media_type="text/plain; version=0.0.4")

    return app


class Uploads:
    """Bodies of requests that have no place yet: bounded in size, in time, and all together."""

    def __init__(self) -> None:
        self._bytes = 0

    async def read(self, request: Request, exchange: Exchange) -> Ending | None:
        """Reads a request's body into its exchange; returns the end of one whose body is not taken. Its bytes count
        until the exchange lets go of them."""
        told = request.headers.get("content-length", "")
        if told.isdigit() and int(told) > LARGEST_BODY_BYTES:
            return endings.TOO_LARGE
        chunks: list[bytes] = []
        exchange.held = held = _Held(self)
        try:
            async with asyncio.timeout(UPLOAD_SECONDS):
                async for chunk in request.stream():
                    held.add(len(chunk))
                    if held.size > LARGEST_BODY_BYTES:
                        return endings.TOO_LARGE
                    if self._bytes > UPLOADS_BYTES and held.size > SMALL_BYTES:
                        return endings.OVERLOADED
                    chunks.append(chunk)
        except TimeoutError:
            return endings.TOO_SLOW
        except ClientDisconnect:
            return endings.CANCELLED
        exchange.body = b"".join(chunks)
        return None

    def take(self, body: bytes, exchange: Exchange) -> Ending | None:
        """The same of a body that is there."""
        exchange.held = held = _Held(self)
        held.add(len(body))
        if self._bytes > UPLOADS_BYTES and held.size > SMALL_BYTES:
            return endings.OVERLOADED
        exchange.body = body
        return None

    def count(self, size: int) -> None:
        """So many bytes more, or less, are held."""
        self._bytes += size


class _Held:
    """The bytes of one body."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads
        self.size = 0

    def add(self, size: int) -> None:
        self.size += size
        self._uploads.count(size)

    def release(self) -> None:
        self._uploads.count(-self.size)
        self.size = 0


def _exchange(headers: Headers, parts: Parts | None) -> Exchange:
    """What the headers of a request say of it, and cannot say wrongly."""
    name, trace = headers.get("x-request-id", ""), trace_context.read(headers)
    return Exchange(name, trace=trace, cache_use=_cache_use(headers), parts=parts)


async def _nothing() -> None:
    pass


def _told_by_headers(headers: Headers, exchange: Exchange, settings: Settings) -> Ending | None:
    """How long a client waits and how urgent it is, by its own words; how it ends where they are none."""
    milliseconds = headers.get(DEADLINE_HEADER)
    if milliseconds is not None:
        if not _MILLISECONDS.fullmatch(milliseconds):
            return endings.INVALID_DEADLINE
        exchange.most_seconds = int(milliseconds) / 1000
        if exchange.most_seconds < settings.timeout_seconds:
            exchange.late = endings.LATE
    if settings.priorities == "Allow":
        priority = _PRIORITIES.get(headers.get(PRIORITY_HEADER, "normal"))
        if priority is None:
            return endings.INVALID_PRIORITY
        exchange.priority = priority
    return None


def _cache_use(headers: Headers) -> CacheUse:
    """What a client, by RFC 9111, or the gateway lets the cache do."""
    asked = headers.get("cache-control", "").lower()
    if "no-store" in asked:
        return CacheUse.NONE
    if "no-cache" in asked:
        return CacheUse.REFRESH
    return CacheUse.JUDGED if headers.get(CACHE_HEADER) == "refresh" else CacheUse.FULL


def _is_answered(exchange: Exchange) -> bool:
    return exchange.ending is not None and exchange.ending.status == 200


def _response(exchange: Exchange) -> Response:
    ending = exchange.ending
    assert ending is not None
    headers = {**exchange.told(), REQUEST_ID_HEADER: exchange.request_id}
    if ending.retry_after_seconds is not None:
        headers["retry-after"] = str(ending.retry_after_seconds)
    return Response(exchange.answer, ending.status, headers, "application/json")
