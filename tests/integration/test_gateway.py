"""The gateway with a real Envoy: exact weights, changes that lose nothing, faults that stay where they are."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer
from kubernetes.aio import client

from dspy_contract.routes import Backend, Port, PortTable, Routes
from dspy_contract.state import RevisionCounts, load_state
from dspy_gateway.drain import drain
from dspy_gateway.published import Inputs
from dspy_gateway.server import application
from dspy_gateway.watch import Watcher
from dspy_kube.client import Kube
from tests.integration.gateway import (
    Gateway,
    Upstream,
    ask,
    ask_many,
    free_port,
    inputs_of,
    running_gateway,
    until,
    weighted,
)

UID = "0b5c6d7e-0000-4000-8000-000000000001"
CHANCE = 1e-4


@pytest.fixture
async def upstreams() -> AsyncIterator[dict[str, Upstream]]:
    async with AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(Upstream(name).running()) for name in ("old", "new")}


@pytest.fixture
async def gateway(tmp_path: Path, upstreams: dict[str, Upstream]) -> AsyncIterator[Gateway]:
    async with running_gateway(
        tmp_path, inputs_of(UID, 1, {"old": 10_000, "new": 0}, upstreams, free_port())
    ) as running:
        yield running


def plausible(seen: int, requests: int, share: float) -> bool:
    """Two-sided: could `seen` come from this share by chance at p = 1e-4? Exact at the ends, Poisson or normal
    between."""
    if share in (0.0, 1.0):
        return seen == requests * share
    mean = requests * share
    if mean < 50:
        at_least = 1 - sum(math.exp(-mean) * mean**k / math.factorial(k) for k in range(seen))
        at_most = sum(math.exp(-mean) * mean**k / math.factorial(k) for k in range(seen + 1))
        return min(at_least, at_most) > CHANCE / 2
    return abs(seen - mean) / math.sqrt(mean * (1 - share)) < NormalDist().inv_cdf(1 - CHANCE / 2)


@pytest.mark.parametrize("weight", [0, 1, 100, 1_000, 5_000, 10_000])
async def test_traffic_is_split_exactly_by_weight(gateway: Gateway, weight: int) -> None:
    await gateway.serve(weighted(gateway.agent.inputs, UID, {"old": 10_000 - weight, "new": weight}))
    answers = await ask_many(gateway.url(UID), 20_000)
    assert sum(count for (status, _), count in answers.items() if status == 200) == 20_000
    assert plausible(answers[200, "new"], 20_000, weight / 10_000), answers


async def test_two_hundred_changes_under_load_lose_no_request(gateway: Gateway) -> None:
    answers: Counter[tuple[int, str]] = Counter()
    changing = True

    async def client(session: aiohttp.ClientSession) -> None:
        while changing:
            answers[await ask(session, gateway.url(UID))] += 1

    async with aiohttp.ClientSession() as session:
        clients = [asyncio.create_task(client(session)) for _ in range(8)]
        for change in range(200):
            await gateway.serve(weighted(gateway.agent.inputs, UID, {"old": change * 50, "new": 10_000 - change * 50}))
        changing = False
        await asyncio.gather(*clients)
    assert {status for status, _ in answers} == {200}
    assert set(answers) == {(200, "old"), (200, "new")}


async def test_a_revision_without_endpoints_gets_no_traffic_and_gets_it_back(
    gateway: Gateway, upstreams: dict[str, Upstream]
) -> None:
    await gateway.serve(weighted(gateway.agent.inputs, UID, {"old": 5_000, "new": 5_000}))
    await gateway.serve(gateway.agent.inputs.with_slice("new", "new-slice", ()))
    await until(lambda: gateway.agent.state().programs[UID].effective == {"old": 10_000, "new": 0}, "all weight on old")
    answers = await ask_many(gateway.url(UID), 300)
    assert set(answers) == {(200, "old")}
    await gateway.serve(gateway.agent.inputs.with_slice("new", "new-slice", (upstreams["new"].endpoint,)))
    assert set(await ask_many(gateway.url(UID), 300)) == {(200, "old"), (200, "new")}


async def test_answers_are_counted_by_revision_and_outcome(gateway: Gateway, upstreams: dict[str, Upstream]) -> None:
    upstreams["new"].outcome, upstreams["new"].status = "program_error", 502
    await gateway.serve(weighted(gateway.agent.inputs, UID, {"old": 5_000, "new": 5_000}))
    answers = await ask_many(gateway.url(UID), 400)
    new, old = answers[502, "new"], answers[200, "old"]
    expected = {"new": RevisionCounts(new, {"program_error": new}), "old": RevisionCounts(old, {"ok": old})}
    await until(lambda: gateway.agent.state().programs[UID].revisions == expected, "both revisions are counted")


async def test_requests_other_than_predictions_are_routed_but_not_counted(
    gateway: Gateway, upstreams: dict[str, Upstream]
) -> None:
    async with aiohttp.ClientSession() as session, session.get(gateway.url(UID, "/schema")) as response:
        assert response.status == 200
        assert response.headers["x-dspy-gateway"] == "gateway-a"
        assert response.headers["x-dspy-serial"] == "1"
    assert upstreams["old"].seen["/schema"] == 1
    await ask_many(gateway.url(UID), 1)
    await until(
        lambda: gateway.agent.state().programs[UID].revisions.get("old") == RevisionCounts(1, {"ok": 1}),
        "one prediction",
    )


async def test_a_waiting_poll_is_answered_when_a_failure_arrives(
    gateway: Gateway, upstreams: dict[str, Upstream]
) -> None:
    upstreams["old"].outcome, upstreams["old"].status = "upstream_error", 502
    seen = gateway.agent.state().token
    waiting = asyncio.create_task(gateway.agent.wait_for_change(seen, wait_seconds=30))
    await ask_many(gateway.url(UID), 1)
    await asyncio.wait_for(waiting, 2)
    assert gateway.agent.state().programs[UID].revisions["old"] == RevisionCounts(1, {"upstream_error": 1})


async def test_a_waiting_poll_is_answered_when_a_serial_is_confirmed(gateway: Gateway) -> None:
    waiting = asyncio.create_task(gateway.agent.wait_for_change(gateway.agent.state().token, wait_seconds=30))
    await gateway.agent.take(weighted(gateway.agent.inputs, UID, {"old": 0, "new": 10_000}))
    await asyncio.wait_for(waiting, 2)
    assert gateway.agent.state().programs[UID].serial == 2


async def test_a_client_that_leaves_is_counted_as_cancelled(gateway: Gateway, upstreams: dict[str, Upstream]) -> None:
    upstreams["old"].delay_seconds = 5
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.2)) as session:
        with pytest.raises(TimeoutError):
            await ask(session, gateway.url(UID))
    await until(
        lambda: gateway.agent.state().programs[UID].revisions.get("old") == RevisionCounts(1, {"cancelled": 1}),
        "one left",
    )


async def test_a_revision_whose_pods_are_gone_counts_connection_failures(
    gateway: Gateway, upstreams: dict[str, Upstream]
) -> None:
    dead = replace(upstreams["new"].endpoint, port=free_port())
    await gateway.serve(
        weighted(gateway.agent.inputs.with_slice("new", "new-slice", (dead,)), UID, {"old": 0, "new": 10_000})
    )
    assert set(await ask_many(gateway.url(UID), 5)) == {(503, "new")}
    expected = RevisionCounts(5, {"connection_failure": 5})
    await until(lambda: gateway.agent.state().programs[UID].revisions.get("new") == expected, "five failures")


async def test_one_dead_pod_of_two_loses_no_request(gateway: Gateway, upstreams: dict[str, Upstream]) -> None:
    dead = replace(upstreams["old"].endpoint, port=free_port())
    await gateway.serve(gateway.agent.inputs.with_slice("old", "second-slice", (dead,)))
    assert set(await ask_many(gateway.url(UID), 300)) == {(200, "old")}


async def test_a_bad_resource_of_one_program_leaves_the_others_alone(gateway: Gateway) -> None:
    other = "0b5c6d7e-0000-4000-8000-000000000002"
    inputs = gateway.agent.inputs
    taken = inputs.ports.ports[UID].port
    ports = PortTable({**inputs.ports.ports, other: Port("other", taken)})
    bad = Routes("other", other, 1, 30, (Backend("nowhere", 10_000),))
    await gateway.agent.take(
        weighted(replace(inputs, ports=ports, routes={**inputs.routes, other: bad}), UID, {"old": 0, "new": 10_000})
    )
    await until(lambda: gateway.agent.state().programs[UID].serial == 2, "the good program's routes are confirmed")
    assert not gateway.agent.state().programs[other].listening
    assert set(await ask_many(gateway.url(UID), 100)) == {(200, "new")}


async def test_an_older_serial_is_ignored(gateway: Gateway) -> None:
    await gateway.serve(weighted(gateway.agent.inputs, UID, {"old": 0, "new": 10_000}))
    old = replace(gateway.agent.inputs.routes[UID], serial=1, backends=(Backend("old", 10_000),))
    await gateway.agent.take(gateway.agent.inputs.with_routes(old))
    assert set(await ask_many(gateway.url(UID), 50)) == {(200, "new")}


async def test_three_hundred_programs(tmp_path: Path, upstreams: dict[str, Upstream]) -> None:
    uids = [f"0b5c6d7e-0000-4000-8000-{number:012d}" for number in range(300)]
    merged = inputs_of(uids[0], 1, {"old": 9_000, "new": 1_000}, upstreams, free_port())
    ports = PortTable({uid: Port(f"p{number}", 20_000 + number) for number, uid in enumerate(uids)})
    routes = {uid: replace(merged.routes[uids[0]], uid=uid, program=f"p{number}") for number, uid in enumerate(uids)}
    async with running_gateway(tmp_path, Inputs(ports, routes, merged.slices)) as gateway:
        for uid in (uids[0], uids[150], uids[299]):
            assert {status for status, _ in await ask_many(gateway.url(uid), 50)} == {200}


async def test_the_agent_may_die_and_come_back(gateway: Gateway) -> None:
    await ask_many(gateway.url(UID), 10)
    await until(
        lambda: gateway.agent.state().programs[UID].revisions.get("old") == RevisionCounts(10, {"ok": 10}),
        "ten counted",
    )
    inputs = gateway.agent.inputs
    await gateway.stop_agent()
    assert set(await ask_many(gateway.url(UID), 100)) == {(200, "old")}
    await gateway.start_agent()
    assert gateway.agent.inputs == inputs
    await gateway.serve(weighted(inputs, UID, {"old": 0, "new": 10_000}))
    assert set(await ask_many(gateway.url(UID), 100)) == {(200, "new")}
    expected = {"old": RevisionCounts(110, {"ok": 110}), "new": RevisionCounts(100, {"ok": 100})}
    await until(lambda: gateway.agent.state().programs[UID].revisions == expected, "nothing is counted twice or lost")


async def test_envoy_may_die_and_come_back_while_nobody_else_is_there(gateway: Gateway) -> None:
    await ask_many(gateway.url(UID), 10)
    await until(
        lambda: gateway.agent.state().programs[UID].revisions.get("old") == RevisionCounts(10, {"ok": 10}),
        "ten counted",
    )
    await until(lambda: gateway.agent.counts.uptime_seconds >= 1, "Envoy is a second old")
    await gateway.kill_envoy()
    await until(lambda: not gateway.agent.discovery.connected, "the agent saw Envoy go")
    await gateway.start_envoy()
    await gateway.confirmed()
    assert set(await ask_many(gateway.url(UID), 10)) == {(200, "old")}
    await until(
        lambda: gateway.agent.state().programs[UID].revisions.get("old") == RevisionCounts(20, {"ok": 20}),
        "counts go on",
    )


async def test_a_drain_waits_for_requests_in_flight(gateway: Gateway, upstreams: dict[str, Upstream]) -> None:
    upstreams["old"].delay_seconds = 1.0
    async with aiohttp.ClientSession() as session:
        slow = asyncio.create_task(ask(session, gateway.url(UID)))
        await until(lambda: upstreams["old"].seen["/predict"] == 1, "the request is in flight")
        await drain(gateway.settings)
        assert slow.done() or (await gateway.agent.admin.active_requests()) == 0
        assert await slow == (200, "old")


async def test_a_program_that_goes_leaves_a_listener_that_says_so_until_its_port_is_freed(gateway: Gateway) -> None:
    url = gateway.url(UID)
    await gateway.agent.take(gateway.agent.inputs.without_routes(UID))

    async def refuses() -> bool:
        async with aiohttp.ClientSession() as session, session.post(url) as response:
            return response.status == 503 and "no version" in await response.text()

    await until(refuses, "the listener answers 503")
    assert not gateway.agent.discovery.names("type.googleapis.com/envoy.config.cluster.v3.Cluster")


async def test_without_the_api_server_a_gateway_starts_again_with_its_last_routes(gateway: Gateway) -> None:
    await gateway.stop_agent()
    await gateway.kill_envoy()
    await gateway.start_agent()
    kube = Kube(client.Configuration(host="http://127.0.0.1:9"))
    watching = asyncio.create_task(Watcher(kube, gateway.agent).run())
    await gateway.start_envoy()
    await gateway.confirmed()
    assert await gateway.agent.admin.ready()
    assert set(await ask_many(gateway.url(UID), 50)) == {(200, "old")}
    assert not watching.done()
    watching.cancel()
    await kube.close()


async def test_the_agents_page_tells_the_operator_and_prometheus(gateway: Gateway) -> None:
    await ask_many(gateway.url(UID), 5)
    await until(
        lambda: gateway.agent.state().programs[UID].revisions.get("old") == RevisionCounts(5, {"ok": 5}), "five counted"
    )
    async with TestClient(TestServer(application(gateway.agent))) as page:
        state = load_state(await (await page.get("/state")).text())
        metrics = await (await page.get("/metrics")).text()
        wrong = await page.get("/state?wait=long")
        ready = await page.get("/readyz")
    assert state == gateway.agent.state()
    assert 'dspy_gateway_answers_total{outcome="ok",program="program-' in metrics
    assert f'dspy_gateway_weight{{program="program-{UID}",revision="old"}} 10000.0' in metrics
    assert (wrong.status, ready.status) == (400, 200)
