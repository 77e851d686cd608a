"""The end of a gateway pod, as its preStop hook: tell clients to leave, then wait until nothing is in flight."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import aiohttp

from dspy_gateway.admin import Admin
from dspy_gateway.settings import Settings

LOOK_SECONDS = 0.2
T = TypeVar("T")


async def drain(settings: Settings) -> None:
    """Fails readiness, gives notice, drains listeners gracefully, and returns when no request is active."""
    admin = Admin(settings.folder / "admin.sock")
    deadline = time.monotonic() + settings.drain_seconds
    try:
        await _retry_until(lambda: admin.post("/healthcheck/fail"), deadline)
        await asyncio.sleep(settings.drain_notice_seconds)
        await _retry_until(lambda: admin.post("/drain_listeners?graceful&skip_exit"), deadline)
        while await _retry_until(admin.active_requests, deadline) and time.monotonic() < deadline:  # noqa: ASYNC110 Envoy tells nobody
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
