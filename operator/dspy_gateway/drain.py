"""The end of a gateway pod, as its preStop hook: tell clients to leave, then wait until nothing is in flight or begins.

Envoy answers `Connection: close` as soon as it fails its readiness, so whoever asks here again has made a new
connection: its node has not learnt yet that the pod ends. A pod that ended between two of its requests would cut one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import aiohttp

from dspy_gateway.admin import Admin
from dspy_gateway.settings import Settings

LOOK_SECONDS = 0.1
T = TypeVar("T")


async def drain(settings: Settings) -> None:
    """Fails readiness, gives notice, drains listeners gracefully, and returns when nobody has asked for as long as the
    notice lasts. One that is idle is over with its notice: a namespace that is deleted waits for it."""
    admin = Admin(settings.folder / "admin.sock")
    began = quiet_since = time.monotonic()
    deadline, notice = began + settings.drain_seconds, settings.drain_notice_seconds
    begun, drains = None, False
    try:
        await _retry_until(lambda: admin.post("/healthcheck/fail"), deadline)
        while (now := time.monotonic()) < deadline:
            requests = await _retry_until(admin.requests, deadline)
            if requests is not None:
                if requests.active or begun not in (None, requests.begun):
                    quiet_since = now
                begun = requests.begun
            if not drains and now - began >= notice:
                await _retry_until(lambda: admin.post("/drain_listeners?graceful&skip_exit"), deadline)
                drains = True
            if drains and now - quiet_since >= notice:
                return
            await asyncio.sleep(LOOK_SECONDS)
    finally:
        await admin.close()


async def _retry_until(order: Callable[[], Awaitable[T]], deadline: float) -> T | None:
    """Repeats an order until Envoy takes it or the time is over: retries transient errors."""
    while True:
        try:
            return await order()
        except (aiohttp.ClientError, TimeoutError, OSError):
            if time.monotonic() > deadline:
                return None
            await asyncio.sleep(LOOK_SECONDS)
