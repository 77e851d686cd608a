"""The end of a gateway pod, as its preStop hook: tell clients to leave, then wait until nothing is in flight."""

from __future__ import annotations

import asyncio
import time

from dspy_gateway.admin import Admin
from dspy_gateway.settings import Settings

LOOK_SECONDS = 0.2


async def drain(settings: Settings) -> None:
    """Fails readiness, gives notice, drains listeners gracefully, and returns when no request is active."""
    admin = Admin(settings.folder / "admin.sock")
    try:
        await admin.post("/healthcheck/fail")
        await asyncio.sleep(settings.drain_notice_seconds)
        await admin.post("/drain_listeners?graceful&skip_exit")
        deadline = time.monotonic() + settings.drain_seconds
        while await admin.active_requests() > 0 and time.monotonic() < deadline:  # noqa: ASYNC110 Envoy tells nobody
            await asyncio.sleep(LOOK_SECONDS)
    finally:
        await admin.close()
