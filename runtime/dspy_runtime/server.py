"""Runs the two servers of the pod, and ends them so that no request is lost: drain first, then stop.

Probes and metrics have a thread and a loop of their own: a program that blocks its loop is slow, not dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from dspy_contract.logs import Logger
from dspy_runtime.error_report import report
from dspy_runtime.event_stream import with_trailers
from dspy_runtime.http import prediction_app, probe_app
from dspy_runtime.memory import collect_when_grown
from dspy_runtime.service import PredictionService

KEEP_ALIVE_SECONDS = 75
"""Above the 60 s after which the gateway closes an idle connection, so that the pod is never the one that does."""
log = Logger(__name__)


class _Server(uvicorn.Server):
    """A server that leaves signals to us, and says when it listens."""

    def __init__(self, config: uvicorn.Config, listens: Callable[[], None] = lambda: None) -> None:
        super().__init__(config)
        self._listens = listens

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listens()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(service: PredictionService) -> int:
    """Serves until SIGTERM or SIGINT, then lets requests in flight end. Returns the exit code: not 0 where something
    that was to last as long as the process has ended."""
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
        "http": "httptools",
        "ws": "websockets-sansio",
    }
    config = uvicorn.Config(with_trailers(prediction_app(service)), port=settings.port, backlog=4096, **shared)
    predictions = _Server(config, service.open)
    probes = _Server(uvicorn.Config(probe_app(service), port=settings.probe_port, **shared))

    broken = False
    draining: list[asyncio.Task[None]] = []

    async def drain() -> None:
        # uvicorn would cut WebSockets whose predictions have not ended.
        began = loop.time()
        await service.sockets.drain(settings.drain_seconds)
        config.timeout_graceful_shutdown = max(1, settings.drain_seconds - int(loop.time() - began))
        predictions.should_exit = True

    def stop() -> None:
        service.close()
        if not draining:
            draining.append(asyncio.create_task(drain()))

    def give_up() -> None:
        nonlocal broken
        broken = broken or not draining
        stop()

    service.own_process()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    tasks = [asyncio.create_task(work) for work in (*service.lasting(), collect_when_grown())]
    for task in tasks:
        task.add_done_callback(functools.partial(_ended, give_up))

    def probe() -> None:
        try:
            asyncio.run(_probe(probes, service))
        finally:  # a pod without probes would be restarted anyway, and says nothing of why
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(give_up)

    probing = threading.Thread(target=probe, name="probes", daemon=True)
    probing.start()
    try:
        await predictions.serve()  # a port that is taken ends the process from here
    finally:
        probes.should_exit = True
    await asyncio.to_thread(probing.join)
    for task in tasks:
        task.cancel()
    await service.aclose()
    return int(broken)


def _ended(give_up: Callable[[], None], task: asyncio.Task[None]) -> None:
    """Ends the process with a task that was to last as long as it."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("A task of the server ended", task=task.get_name(), **report(error, with_words=False))
        give_up()


async def _probe(server: uvicorn.Server, service: PredictionService) -> None:
    watching = asyncio.create_task(service.watchdog.watch())
    await server.serve()
    watching.cancel()
