"""The operator's own page: probes and Prometheus metrics."""

from __future__ import annotations

import time

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from dspy_operator.reconcile.controller import Controller
from dspy_operator.settings import Settings

STUCK_RESYNCS = 3


async def serve_page(settings: Settings, controller: Controller) -> web.AppRunner:
    """`/healthz` (a pass succeeded lately), `/readyz` (the process serves), `/metrics`."""

    async def healthz(_: web.Request) -> web.Response:
        stuck = time.time() - controller.worked_at > STUCK_RESYNCS * settings.resync_seconds
        return web.Response(status=500 if stuck else 200, text="no pass succeeded for long" if stuck else "ok")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", settings.port).start()
    return runner
