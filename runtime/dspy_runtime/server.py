"""Runs the two servers of the pod, and ends them so that no request is lost: drain first, then stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from typing import Any

import uvicorn

from dspy_runtime.http import prediction_app, probe_app
from dspy_runtime.service import PredictionService

KEEP_ALIVE_SECONDS = 75
"""Above the 60 s after which the gateway closes an idle connection, so that the pod is never the one that does."""


class _Server(uvicorn.Server):
    """A server that leaves signals to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(service: PredictionService) -> None:
    """Serves until SIGTERM or SIGINT, then lets requests in flight end."""
    settings = service.settings
    shared: dict[str, Any] = {
        "host": settings.host,
        "log_level": settings.log_level,
        "access_log": False,
        "log_config": None,
        "timeout_keep_alive": KEEP_ALIVE_SECONDS,
        "timeout_graceful_shutdown": settings.drain_seconds,
        "server_header": False,
        "date_header": False,
        "lifespan": "off",
    }
    predictions = _Server(uvicorn.Config(prediction_app(service), port=settings.port, backlog=4096, **shared))
    probes = _Server(uvicorn.Config(probe_app(service), port=settings.probe_port, **shared))

    def stop() -> None:
        service.draining = True
        predictions.should_exit = True

    service.own_dspy()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    follower = asyncio.create_task(service.models.follow_keys())
    probing = asyncio.create_task(probes.serve())
    await predictions.serve()
    probes.should_exit = True
    await probing
    follower.cancel()
    await service.models.aclose()
