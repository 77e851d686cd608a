"""The agent's HTTP page: the state that the operator polls, Prometheus metrics for people, and the probes."""

from __future__ import annotations

from collections.abc import Iterator

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from dspy_contract.routes import dump
from dspy_gateway.agent import Agent

LONGEST_WAIT_SECONDS = 30.0


def application(agent: Agent) -> web.Application:
    """`/state` (with ?wait=seconds&seen=token it waits for a change), `/metrics`, `/startz`,
    and `/readyz`, which is Envoy's own readiness."""
    registry = CollectorRegistry()
    registry.register(Page(agent))

    async def state(request: web.Request) -> web.Response:
        try:
            wait = min(float(request.query.get("wait", "0")), LONGEST_WAIT_SECONDS)
        except ValueError:
            raise web.HTTPBadRequest(text="wait is a number of seconds") from None
        if wait > 0:
            await agent.wait_for_change(request.query.get("seen", ""), wait)
        return web.Response(text=dump(agent.state()), content_type="application/json")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(registry), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def startz(_: web.Request) -> web.Response:
        ready = agent.open_to_envoy
        return web.Response(status=200 if ready else 503, text="ok" if ready else "waiting for routes and endpoints")

    async def readyz(_: web.Request) -> web.Response:
        ready = await agent.admin.ready()
        return web.Response(status=200 if ready else 503, text="ok" if ready else "Envoy is not ready")

    app = web.Application()
    app.add_routes(
        [web.get("/state", state), web.get("/metrics", metrics), web.get("/startz", startz), web.get("/readyz", readyz)]
    )
    return app


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
            port = self._agent.inputs.ports.ports[uid]
            if port.freed_at is not None:
                continue  # its name may belong to another program by now
            name = port.program
            serials.add_metric([name], program.serial)
            for revision, weight in program.effective.items():
                weights.add_metric([name, revision], weight)
            for revision, counts in program.revisions.items():
                started.add_metric([name, revision], counts.started)
                for outcome, count in counts.outcomes.items():
                    answers.add_metric([name, revision, outcome], count)
        yield from (started, answers, weights, serials)
