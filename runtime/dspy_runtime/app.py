"""The two HTTP applications: predictions for everybody, probes and metrics for the cluster."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy
from dspy.utils.usage_tracker import track_usage
from fastapi import FastAPI, Request, Response
from prometheus_client import generate_latest
from pydantic import ValidationError
from pydantic_core import to_json

from dspy_contract.outcomes import OUTCOME_HEADER
from dspy_runtime import outcomes, schema
from dspy_runtime.admission import Admission, OverloadedError
from dspy_runtime.lm import LanguageModel
from dspy_runtime.metrics import Metrics
from dspy_runtime.outcomes import Outcome
from dspy_runtime.settings import Settings

LARGEST_BODY_BYTES = 16 << 20


class Served:
    """One loaded program with all that a request needs."""

    def __init__(self, program: Any, adapter: Any, lm: LanguageModel, settings: Settings) -> None:
        self.program = program
        self.schema = schema.derive(program)
        self.lm = lm
        self.settings = settings
        self.admission = Admission(settings.concurrency, settings.queue)
        self.metrics = Metrics(settings.revision, self.admission)
        self.draining = False
        self._adapter = adapter or dspy.ChatAdapter()
        self._async = schema.is_async(program)
        self._threads = ThreadPoolExecutor(settings.concurrency, "program") if not self._async else None

    async def predict(self, body: bytes) -> tuple[Outcome, bytes]:
        """Runs one request to its end. Returns its outcome and the answer's JSON."""
        started = time.perf_counter()
        usage: Mapping[str, Any] = {}
        try:
            arguments = self.schema.arguments(body)
        except ValidationError as error:
            outcome, fields = outcomes.of_invalid_input(error)
            self.metrics.record(outcome.name, time.perf_counter() - started, usage)
            return outcome, _problem(outcome, fields)
        with track_usage() as tracker:
            outcome, answer = await self._run(arguments)
        usage = tracker.get_total_tokens()
        self.metrics.record(outcome.name, time.perf_counter() - started, usage)
        return outcome, answer

    async def _run(self, arguments: dict[str, Any]) -> tuple[Outcome, bytes]:
        try:
            async with asyncio.timeout(self.settings.timeout_seconds):
                leave = await self.admission.enter()
                with dspy.context(lm=self.lm.current.lm, adapter=self._adapter, disable_history=True, trace=None):
                    if self._threads is None:
                        try:
                            prediction = await self.program.acall(**arguments)
                        finally:
                            leave()
                    else:
                        prediction = await self._in_thread(arguments, leave)
            return outcomes.OK, to_json(self.schema.fields(prediction))
        except OverloadedError:
            return outcomes.OVERLOADED, _problem(outcomes.OVERLOADED)
        except asyncio.CancelledError:
            self.metrics.record_cancelled()
            raise
        except Exception as error:
            outcome = outcomes.of_exception(error)
            return outcome, _problem(outcome)

    async def _in_thread(self, arguments: dict[str, Any], leave: Any) -> Any:
        """Runs a program that cannot be awaited. Its place is free only when its thread is, whoever waits for it."""
        call = functools.partial(contextvars.copy_context().run, self.program, **arguments)
        try:
            future = asyncio.get_running_loop().run_in_executor(self._threads, call)
        except RuntimeError:  # no more threads
            leave()
            raise
        future.add_done_callback(lambda done: (leave(), done.cancelled() or done.exception()))
        return await asyncio.shield(future)


def prediction_app(served: Served) -> FastAPI:
    """`POST /predict` and `GET /schema`."""
    app = FastAPI(title="DSPy program", openapi_url=None, docs_url=None, redoc_url=None)

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        body = await _bounded_body(request)
        if body is None:
            return _response(outcomes.TOO_LARGE, _problem(outcomes.TOO_LARGE))
        work = asyncio.ensure_future(served.predict(body))
        leaving = asyncio.ensure_future(request.receive())
        try:
            await asyncio.wait((work, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
                return _response(outcomes.CANCELLED, _problem(outcomes.CANCELLED))
            return _response(*work.result())
        finally:
            leaving.cancel()

    @app.get("/schema")
    async def describe() -> dict[str, Any]:
        return served.schema.document()

    return app


def probe_app(served: Served) -> FastAPI:
    """`/livez`, `/readyz` and `/metrics`. Ready means: loaded, language model configured, not draining."""
    app = FastAPI(title="Probes", openapi_url=None, docs_url=None, redoc_url=None)

    @app.get("/livez")
    async def livez() -> Response:
        return Response("ok")

    @app.get("/readyz")
    async def readyz() -> Response:
        return Response("draining", 503) if served.draining else Response("ok")

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(served.metrics.registry), media_type="text/plain; version=0.0.4")

    return app


async def _bounded_body(request: Request) -> bytes | None:
    """A request's body; None when it is larger than a prediction's input can be."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > LARGEST_BODY_BYTES:
            return None
        parts.append(part)
    return b"".join(parts)


def _problem(outcome: Outcome, fields: list[dict[str, str]] | None = None) -> bytes:
    error: dict[str, Any] = {"outcome": outcome.name, "code": outcome.code, "message": outcome.message}
    return to_json({"error": error | ({"fields": fields} if fields else {})})


def _response(outcome: Outcome, body: bytes) -> Response:
    headers = {OUTCOME_HEADER: outcome.name}
    if outcome.retry_after_seconds is not None:
        headers["retry-after"] = str(outcome.retry_after_seconds)
    return Response(body, outcome.status, headers, "application/json")
