"""The two HTTP applications: predictions for everybody, probes and metrics for the cluster."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI, Request, Response
from prometheus_client import generate_latest

from dspy_contract.outcomes import OUTCOME_HEADER
from dspy_runtime import outcomes
from dspy_runtime.outcomes import Outcome
from dspy_runtime.service import PredictionService, problem

LARGEST_BODY_BYTES = 16 << 20


def prediction_app(service: PredictionService) -> FastAPI:
    """`POST /predict` and `GET /schema`."""
    app = FastAPI(title="DSPy program", openapi_url=None, docs_url=None, redoc_url=None)

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        body = await _bounded_body(request)
        if body is None:
            return _response(outcomes.TOO_LARGE, problem(outcomes.TOO_LARGE))
        work = asyncio.ensure_future(service.predict(body, request.headers.get("x-request-id", "")))
        leaving = asyncio.ensure_future(request.receive())
        try:
            await asyncio.wait((work, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
                return _response(outcomes.CANCELLED, problem(outcomes.CANCELLED))
            return _response(*work.result())
        finally:
            leaving.cancel()

    @app.get("/schema")
    async def describe() -> dict[str, Any]:
        return service.describe()

    return app


def probe_app(service: PredictionService) -> FastAPI:
    """`/livez`, `/readyz` and `/metrics`. Ready means: loaded, language model configured, not draining."""
    app = FastAPI(title="Probes", openapi_url=None, docs_url=None, redoc_url=None)

    @app.get("/livez")
    async def livez() -> Response:
        return Response("ok")

    @app.get("/readyz")
    async def readyz() -> Response:
        return Response("draining", 503) if service.draining else Response("ok")

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(service.metrics.registry), media_type="text/plain; version=0.0.4")

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


def _response(outcome: Outcome, body: bytes) -> Response:
    headers = {OUTCOME_HEADER: outcome.name}
    if outcome.retry_after_seconds is not None:
        headers["retry-after"] = str(outcome.retry_after_seconds)
    return Response(body, outcome.status, headers, "application/json")
