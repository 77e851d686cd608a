"""The agent's HTTP page: the state that the operator polls, Prometheus metrics, and the agent's own probes."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Iterator
from weakref import WeakKeyDictionary

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from dspy_contract.state import dump_state, load_poll
from dspy_gateway.agent import Agent

ANSWER_SECONDS = 0.25
"""A connection is answered at most once in this time: a storm of failures is looked at four times a second."""

LONGEST_WAIT_SECONDS = 30.0
MOST_WAITING = 64


def application(agent: Agent) -> web.Application:
    """`POST /state` (a Poll; needs the token), `/metrics`, `/startz` and `/livez`."""
    registry = CollectorRegistry()
    registry.register(Page(agent))
    waiting = 0
    answered_at: WeakKeyDictionary[asyncio.BaseTransport, float] = WeakKeyDictionary()

    async def pace(request: web.Request) -> None:
        """Waits until the connection may be answered again."""
        assert request.transport is not None
        loop = asyncio.get_running_loop()
        await asyncio.sleep(answered_at.get(request.transport, float("-inf")) + ANSWER_SECONDS - loop.time())

    async def state(request: web.Request) -> web.Response:
        nonlocal waiting
        if not _is_allowed(request, agent):
            raise web.HTTPUnauthorized(text="the token of the namespace's gateway is needed")
        try:
            poll = load_poll(await request.read())
        except msgspec.DecodeError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        if poll.wait_seconds > LONGEST_WAIT_SECONDS:
            raise web.HTTPBadRequest(text=f"wait_seconds is at most {LONGEST_WAIT_SECONDS:.0f}")
        if waiting >= MOST_WAITING:
            raise web.HTTPTooManyRequests(text="too many polls wait already")
        waiting += 1
        try:
            await pace(request)
            content = dump_state(await agent.answer(poll))
        finally:
            waiting -= 1
        if request.transport is not None:
            answered_at[request.transport] = asyncio.get_running_loop().time()
        return web.Response(body=content, content_type="application/json")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def startz(_: web.Request) -> web.Response:
        ready = agent.open_to_envoy
        return web.Response(status=200 if ready else 503, text="ok" if ready else "waiting for routes and endpoints")

    async def livez(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    app = web.Application()
    app.add_routes([web.post("/state", state), web.get("/metrics", metrics)])
    app.add_routes([web.get("/startz", startz), web.get("/livez", livez)])
    return app


def _is_allowed(request: web.Request, agent: Agent) -> bool:
    """Whoever may ask for the state may renew a candidate's switch, so it takes the token."""
    file = agent.settings.token_file
    if file is None:
        return True
    given = request.headers.get("Authorization", "").removeprefix("Bearer ")
    return hmac.compare_digest(given.encode(), file.read_bytes().strip())


class Page:
    """The counts of this pod as Prometheus metrics, labelled by program and revision."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def collect(self) -> Iterator[Metric]:
        """Everything that is known, read at the moment of the scrape."""
        labels = ["program", "revision"]
        started = CounterMetricFamily(
            "dspy_gateway_requests_started", "Predictions that arrived for a revision.", labels=labels
        )
        answers = CounterMetricFamily(
            "dspy_gateway_answers", "Predictions that ended, by outcome.", labels=[*labels, "outcome"]
        )
        weights = GaugeMetricFamily(
            "dspy_gateway_weight", "Effective weight of a revision, in basis points.", labels=labels
        )
        serials = GaugeMetricFamily(
            "dspy_gateway_routes_serial", "Serial of the routes that Envoy confirmed.", labels=["program"]
        )
        state = self._agent.state()
        for uid, program in state.programs.items():
            port = self._agent.desired.ports.ports[uid]
            if port.freed_at is not None:
                continue  # its name may belong to another program by now
            name = port.program
            serials.add_metric([name], program.serial)
            for revision, weight in program.effective.items():
                weights.add_metric([name, revision], weight)
            for revision, counts in program.totals.items():
                started.add_metric([name, revision], counts.started)
                for outcome, count in counts.outcomes.items():
                    answers.add_metric([name, revision, outcome], count)
        yield from (started, answers, weights, serials)
