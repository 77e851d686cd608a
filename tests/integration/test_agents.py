"""Polling the agents of gateway pods over real sockets."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from dspy_contract.routes import STATE_PORT
from dspy_contract.state import GatewayState, Poll, dump_state
from dspy_operator.agent_client import AgentClient, AgentError

ADDRESS = "127.0.0.9"
PODS = 150


async def test_a_poll_waits_at_every_gateway_pod_at_once() -> None:
    """No poll may wait for another's end: with 50 namespaces in motion there are more than a hundred."""
    waiting = asyncio.Barrier(PODS)

    async def state(_: web.Request) -> web.Response:
        await waiting.wait()
        return web.Response(body=dump_state(GatewayState("gateway-a", "1", "token", {})))

    app = web.Application()
    app.add_routes([web.post("/state", state)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, ADDRESS, STATE_PORT, backlog=1024).start()
    agents = AgentClient()
    try:
        told = await asyncio.gather(*(agents.ask(ADDRESS, "secret", Poll()) for _ in range(PODS)))
    finally:
        await agents.close()
        await runner.cleanup()
    assert {state.pod for state in told} == {"gateway-a"}


async def test_an_agent_that_is_not_there_is_an_error_of_its_own() -> None:
    agents = AgentClient()
    try:
        with pytest.raises(AgentError, match=ADDRESS):
            await agents.ask(ADDRESS, "secret", Poll())
    finally:
        await agents.close()
