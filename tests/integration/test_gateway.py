"""The gateway with a real Envoy: exact weights, changes that lose nothing, faults that stay where they are."""

from __future__ import annotations

import asyncio
import io
import math
import time
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
from yarl import URL

from dspy_contract.routes import Backend, Port, PortTable, ReleaseRef, Routes, dump, load_routes, preview_of
from dspy_contract.state import EDGES_SECONDS, Counts, DrawTable, Interest, Poll, dump_poll, load_state
from dspy_gateway.drain import drain
from dspy_gateway.resources import DesiredState
from dspy_gateway.server import ANSWER_SECONDS, application
from dspy_gateway.watch import Watcher
from dspy_gateway.xds import CLUSTER
from dspy_kube.client import Kube
from dspy_operator.api.rollout import SmokeRequest
from dspy_operator.domain.smoke import Unknown, verdict
from dspy_operator.preview_client import PreviewClient, PreviewUnheardError
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
    await gateway.serve(weighted(gateway.agent.desired, UID, {"old": 10_000 - weight, "new": weight}))
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
            await gateway.serve(weighted(gateway.agent.desired, UID, {"old": change * 50, "new": 10_000 - change * 50}))
        changing = False
        await asyncio.gather(*clients)
    assert {status for status, _ in answers} == {200}
    assert set(answers) == {(200, "old"), (200, "new")}


async def test_a_revision_without_endpoints_gets_no_traffic_and_gets_it_back(
    gateway: Gateway, upstreams: dict[str, Upstream]
) -> None:
    await gateway.serve(weighted(gateway.agent.desired, UID, {"old": 5_000, "new": 5_000}))
    await gateway.serve(gateway.agent.desired.with_slice("new", "new-slice", ()))
    await until(lambda: gateway.agent.state().programs[UID].effective == {"old": 10_000, "new": 0}, "all weight on old")
    answers = await ask_many(gateway.url(UID), 300)
    assert set(answers) == {(200, "old")}
    await gateway.serve(gateway.agent.desired.with_slice("new", "new-slice", (upstreams["new"].endpoint,)))
    assert set(await ask_many(gateway.url(UID), 300)) == {(200, "old"), (200, "new")}


async def test_answers_are_counted_by_revision_and_outcome(gateway: Gateway, upstreams: dict[str, Upstream]) -> None:
    upstreams["new"].outcome, upstreams["new"].status = "program_error", 502
    await gateway.serve(weighted(gateway.agent.desired, UID, {"old": 5_000, "new": 5_000}))
    answers = await ask_many(gateway.url(UID), 400)
    new, old = answers[502, "new"], answers[200, "old"]
    expected = {"new": Counts(new, {"program_error": new}), "old": Counts(old, {"ok": old})}
    await until_counted(gateway, expected, "both revisions are counted")


async def test_requests_other_than_predictions_are_routed_but_not_counted(
    gateway: Gateway, upstreams: dict[str, Upstream]
) -> None:
    async with aiohttp.ClientSession() as session, session.get(gateway.url(UID, "/schema")) as response:
        assert response.status == 200
        assert response.headers["x-dspy-gateway"] == "gateway-a"
        assert response.headers["x-dspy-serial"] == "1"
    assert upstreams["old"].seen["/schema"] == 1
    await ask_many(gateway.url(UID), 1)
    await until_counted(
        gateway,
        {"old": Counts(1, {"ok": 1})},
        "one prediction",
    )


async def test_a_waiting_poll_is_answered_when_a_failure_arrives(
    gateway: Gateway, upstreams: dict[str, Upstream]
) -> None:
    upstreams["old"].outcome, upstreams["old"].status = "upstream_error", 502
    seen = (await gateway.agent.answer(Poll({UID: Interest()}))).token

    async def failure() -> Counts:
        token = seen
        while True:
            answer = await gateway.agent.answer(Poll({UID: Interest()}, token, wait_seconds=30))
            token = answer.token
            totals = answer.programs[UID].totals if UID in answer.programs else {}
            if "old" in totals and totals["old"].answered:
                return totals["old"]

    waiting = asyncio.create_task(failure())
    await ask_many(gateway.url(UID), 1)
    assert await asyncio.wait_for(waiting, 2) == Counts(1, {"upstream_error": 1})


async def test_a_waiting_poll_is_answered_when_a_serial_is_confirmed(gateway: Gateway) -> None:
    seen = (await gateway.agent.answer(Poll({UID: Interest()}))).token
    waiting = asyncio.create_task(gateway.agent.answer(Poll({UID: Interest()}, seen, wait_seconds=30)))
    changed = weighted(gateway.agent.desired, UID, {"old": 0, "new": 10_000})
    read = load_routes(dump(changed.routes[UID]))
    await gateway.agent.update(replace(changed, routes={**changed.routes, UID: read}))
    await asyncio.wait_for(waiting, 2)
    await gateway.confirmed()
    state = await gateway.poll(UID)
    assert (state.serial, state.content) == (2, read.content)
    assert read.content


async def test_a_client_that_leaves_is_counted_as_cancelled(gateway: Gateway, upstreams: dict[str, Upstream]) -> None:
    upstreams["old"].delay_seconds = 5
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.2)) as session:
        with pytest.raises(TimeoutError):
            await ask(session, gateway.url(UID))
    await until_counted(
        gateway,
        {"old": Counts(1, {"cancelled": 1})},
        "one left",
    )


async def test_a_revision_whose_pods_are_gone_counts_connection_failures(
    gateway: Gateway, upstreams: dict[str, Upstream]
) -> None:
    dead = replace(upstreams["new"].endpoint, port=free_port())
    await gateway.serve(
        weighted(gateway.agent.desired.with_slice("new", "new-slice", (dead,)), UID, {"old": 0, "new": 10_000})
    )
    assert set(await ask_many(gateway.url(UID), 5)) == {(503, "new")}
    expected = Counts(5, {"connection_failure": 5})
    await until_counted(gateway, {"new": expected}, "five failures")


async def test_one_dead_pod_of_two_loses_no_request(gateway: Gateway, upstreams: dict[str, Upstream]) -> None:
    dead = replace(upstreams["old"].endpoint, port=free_port())
    await gateway.serve(gateway.agent.desired.with_slice("old", "second-slice", (dead,)))
    assert set(await ask_many(gateway.url(UID), 300)) == {(200, "old")}


async def test_a_bad_resource_of_one_program_leaves_the_others_alone(gateway: Gateway) -> None:
    other = "0b5c6d7e-0000-4000-8000-000000000002"
    inputs = gateway.agent.desired
    taken = inputs.ports.ports[UID].port
    ports = PortTable({**inputs.ports.ports, other: Port("other", taken)})
    bad = Routes("other", other, 1, 30, (Backend("nowhere", 10_000),))
    await gateway.agent.update(
        weighted(replace(inputs, ports=ports, routes={**inputs.routes, other: bad}), UID, {"old": 0, "new": 10_000})
    )
    await until(lambda: gateway.agent.state().programs[UID].serial == 2, "the good program's routes are confirmed")
    assert not gateway.agent.state().programs[other].listening
    assert set(await ask_many(gateway.url(UID), 100)) == {(200, "new")}


async def test_an_older_serial_is_ignored(gateway: Gateway) -> None:
    await gateway.serve(weighted(gateway.agent.desired, UID, {"old": 0, "new": 10_000}))
    old = replace(gateway.agent.desired.routes[UID], serial=1, backends=(Backend("old", 10_000),))
    await gateway.agent.update(gateway.agent.desired.with_routes(old))
    assert set(await ask_many(gateway.url(UID), 50)) == {(200, "new")}


async def test_three_hundred_programs(tmp_path: Path, upstreams: dict[str, Upstream]) -> None:
    uids = [f"0b5c6d7e-0000-4000-8000-{number:012d}" for number in range(300)]
    merged = inputs_of(uids[0], 1, {"old": 9_000, "new": 1_000}, upstreams, free_port())
    ports = PortTable({uid: Port(f"p{number}", 20_000 + number) for number, uid in enumerate(uids)})
    routes = {uid: replace(merged.routes[uids[0]], uid=uid, program=f"p{number}") for number, uid in enumerate(uids)}
    async with running_gateway(tmp_path, DesiredState(ports, routes, merged.slices)) as gateway:
        for uid in (uids[0], uids[150], uids[299]):
            assert {status for status, _ in await ask_many(gateway.url(uid), 50)} == {200}


async def test_a_request_may_name_its_revision_where_that_is_allowed(
    gateway: Gateway, upstreams: dict[str, Upstream]
) -> None:
    async def ask_for(revision: str, path: str = "/predict") -> tuple[int, str]:
        async with aiohttp.ClientSession(headers={"x-dspy-revision": revision}) as session:
            return await ask(session, gateway.url(UID, path))

    assert await ask_for("new") == (200, "old"), "the header is ignored"
    routes = gateway.agent.desired.routes[UID]
    release = ReleaseRef(1, "old", ("new",))
    await gateway.serve(gateway.agent.desired.with_routes(replace(routes, serial=2, forced=True, release=release)))
    assert [await ask_for(name) for name in ("new", "candidate", "old", "stable")] == [
        (200, "new"),
        (200, "new"),
        (200, "old"),
        (200, "old"),
    ]
    assert await ask_for("newer") == (404, "")
    assert await ask_for("candidate", "/schema") == (200, "new")
    assert set(await ask_many(gateway.url(UID), 20)) == {(200, "old")}
    counted = {"old": Counts(21, {"ok": 21}), "new/forced": Counts(2, {"ok": 2}), "old/forced": Counts(2, {"ok": 2})}
    await until_counted(gateway, counted, "the forced ones are counted apart")
    assert "new" not in await gateway.counted(UID)
    assert all("new/forced" not in table.counts for table in (await gateway.poll(UID)).tables)


async def test_the_programs_flags_are_counted(gateway: Gateway, upstreams: dict[str, Upstream]) -> None:
    routes = replace(gateway.agent.desired.routes[UID], serial=2, flags=("blocked", "too-long"))
    await gateway.serve(gateway.agent.desired.with_routes(routes))
    upstreams["old"].flags = "blocked,too-long,unasked"
    await ask_many(gateway.url(UID), 7)
    upstreams["old"].flags = "too-long, not a flag,,x" + "y" * 200
    await ask_many(gateway.url(UID), 3)
    flags = {"blocked": 7, "too-long": 10}
    await until_counted(gateway, {"old": Counts(10, {"ok": 10}, flags=flags)}, "flags are counted beside outcomes")


async def test_what_answers_cost_is_summed(gateway: Gateway, upstreams: dict[str, Upstream], tmp_path: Path) -> None:
    for tokens, requests in (("120", 4), ("3", 2), ("", 3), ("-5", 2), ("many", 2)):
        upstreams["old"].tokens = tokens
        await ask_many(gateway.url(UID), requests)
    upstreams["old"].tokens = ""
    for cost, requests in (("900000000000", 2), ("0", 2), ("0.5", 1), ("9000000000000", 1)):
        upstreams["old"].cost = cost
        await ask_many(gateway.url(UID), requests)
    expected = {"old": Counts(19, {"ok": 19}, tokens=486, cost=1_800_000_000_000, priced=4)}
    await until_counted(gateway, expected, "numbers are summed, and what is none is passed over")
    assert "error" not in await asyncio.to_thread((tmp_path / "envoy.log").read_text)


async def test_what_goes_through_a_preview_is_not_counted(tmp_path: Path, upstreams: dict[str, Upstream]) -> None:
    inputs = inputs_of(UID, 1, {"old": 10_000, "new": 0}, upstreams, free_port())
    uid = preview_of(UID)
    preview = replace(inputs.routes[UID], uid=uid, program="program-preview", backends=(Backend("new", 10_000),))
    ports = PortTable({**inputs.ports.ports, uid: Port("program-preview", free_port())})
    async with running_gateway(tmp_path, replace(inputs.with_routes(preview), ports=ports)) as gateway:
        assert set(await ask_many(gateway.url(uid), 20)) == {(200, "new")}
        assert set(await ask_many(gateway.url(UID), 10)) == {(200, "old")}
        await until_counted(gateway, {"old": Counts(10, {"ok": 10})}, "the program's own")
        client, port = PreviewClient(), gateway.agent.desired.ports.ports[uid].port
        answer = await client.predict("127.0.0.1", port, b"{}", 5)
        assert (answer.status, answer.outcome, answer.revision, answer.body) == (200, "ok", "new", b"new")
        upstreams["new"].delay_seconds = 5
        with pytest.raises(TimeoutError):
            await client.predict("127.0.0.1", port, b"{}", 0.3)
        upstreams["new"].delay_seconds = 0
        await gateway.agent.update(gateway.agent.desired.with_slice("new", "new-slice", ()))

        async def is_the_gateways_own_word() -> bool:
            answer = await client.predict("127.0.0.1", port, b"{}", 5)
            says_nothing = isinstance(verdict(SmokeRequest({}), answer, "new"), Unknown)
            return (answer.status, answer.revision, says_nothing) == (503, "new", True)

        await until(is_the_gateways_own_word, "without a pod the gateway answers by the revision's name")
        with pytest.raises(PreviewUnheardError):
            await client.predict("127.0.0.1", free_port(), b"{}", 5)
        await client.close()
        closed = replace(preview, serial=2, backends=())
        await gateway.agent.update(gateway.agent.desired.with_routes(closed))
        await until(lambda: gateway.agent.state({uid: Interest()}).programs[uid].serial != 1, "the preview is closed")
        assert set(await ask_many(gateway.url(uid), 5)) == {(503, "")}


async def test_the_agent_may_die_and_come_back(gateway: Gateway) -> None:
    await ask_many(gateway.url(UID), 10)
    await until_counted(
        gateway,
        {"old": Counts(10, {"ok": 10})},
        "ten counted",
    )
    inputs = gateway.agent.desired
    await gateway.stop_agent()
    assert set(await ask_many(gateway.url(UID), 100)) == {(200, "old")}
    await gateway.start_agent()
    assert gateway.agent.desired == inputs
    await gateway.serve(weighted(inputs, UID, {"old": 0, "new": 10_000}))
    assert set(await ask_many(gateway.url(UID), 100)) == {(200, "new")}
    expected = {"old": Counts(110, {"ok": 110}), "new": Counts(100, {"ok": 100})}
    await until_counted(gateway, expected, "nothing is counted twice or lost")


async def test_envoy_may_die_and_come_back_while_nobody_else_is_there(gateway: Gateway) -> None:
    await ask_many(gateway.url(UID), 10)
    await until_counted(
        gateway,
        {"old": Counts(10, {"ok": 10})},
        "ten counted",
    )
    await gateway.kill_envoy()
    await until(lambda: not gateway.agent.discovery.connected, "the agent saw Envoy go")
    await gateway.start_envoy()
    await gateway.confirmed()
    assert set(await ask_many(gateway.url(UID), 10)) == {(200, "old")}
    await until_counted(
        gateway,
        {"old": Counts(20, {"ok": 20})},
        "counts go on",
    )


async def test_a_drain_waits_for_requests_in_flight(gateway: Gateway, upstreams: dict[str, Upstream]) -> None:
    upstreams["old"].delay_seconds = 1.0
    async with aiohttp.ClientSession() as session:
        slow = asyncio.create_task(ask(session, gateway.url(UID)))
        await until(lambda: upstreams["old"].seen["/predict"] == 1, "the request is in flight")
        await drain(gateway.settings)
        assert (await gateway.agent.admin.requests()).active == 0
        assert await slow == (200, "old")


async def test_a_drain_waits_for_those_who_have_not_heard_of_it(gateway: Gateway) -> None:
    settings = gateway.settings.model_copy(update={"drain_notice_seconds": 0.5})
    draining = asyncio.create_task(drain(settings))
    for _ in range(30):
        assert set(await ask_many(gateway.url(UID), 1)) == {(200, "old")}
        await asyncio.sleep(0.1)  # clients that come all the time, for longer than the notice
    assert not draining.done()
    await draining


async def test_a_program_that_goes_leaves_a_listener_that_says_so_until_its_port_is_freed(gateway: Gateway) -> None:
    url = gateway.url(UID)
    gone = {UID: replace(gateway.agent.desired.ports.ports[UID], freed_at=1.0)}
    await gateway.agent.update(gateway.agent.desired.with_ports(PortTable(gone)).keeping_routes(set()))

    async def refuses() -> bool:
        async with aiohttp.ClientSession() as session, session.post(url) as response:
            return response.status == 503 and "no version" in await response.text()

    await until(refuses, "the listener answers 503")
    await until(lambda: not gateway.agent.discovery.names(CLUSTER), "its clusters are gone")


async def test_without_the_api_server_a_gateway_starts_again_with_its_last_routes(gateway: Gateway) -> None:
    await gateway.stop_agent()
    await gateway.kill_envoy()
    await gateway.start_agent()
    kube = Kube(client.Configuration(host="http://127.0.0.1:9"))
    watching = asyncio.create_task(Watcher(kube, gateway.agent).run())
    await gateway.start_envoy()
    await gateway.confirmed()
    assert await gateway.ready()
    assert set(await ask_many(gateway.url(UID), 50)) == {(200, "old")}
    assert not watching.done()
    watching.cancel()
    await kube.close()


async def test_the_agents_page_tells_the_operator_and_prometheus(gateway: Gateway, tmp_path: Path) -> None:
    gateway.agent.settings.token_file = tmp_path / "token"
    gateway.agent.settings.token_file.write_text("secret\n")
    await ask_many(gateway.url(UID), 5)
    await until_counted(gateway, {"old": Counts(5, {"ok": 5})}, "five counted")
    async with TestClient(TestServer(application(gateway.agent))) as page:
        allowed = {"Authorization": "Bearer secret"}
        answer = await page.post("/state", data=dump_poll(Poll({UID: Interest()})), headers=allowed)
        state = load_state(await answer.read())
        metrics = await (await page.get("/metrics")).text()
        wrong = await page.post("/state", data=b"no json", headers=allowed)
        stranger = await page.post("/state", data=dump_poll(Poll({UID: Interest(guarding=1)})))
    assert state.programs[UID].totals == {"old": Counts(5, {"ok": 5})}
    assert 'dspy_gateway_answers_total{outcome="ok",program="program-' in metrics
    assert f'dspy_gateway_weight{{program="program-{UID}",revision="old"}} 10000.0' in metrics
    assert (wrong.status, stranger.status) == (400, 401)


async def test_a_connection_is_answered_four_times_a_second_at_most(gateway: Gateway) -> None:
    """Whatever a caller asks for: a poll that knows nothing is otherwise answered at once."""
    async with TestClient(TestServer(application(gateway.agent))) as page:
        began = asyncio.get_running_loop().time()
        for _ in range(5):
            answer = await page.post("/state", data=dump_poll(Poll({UID: Interest()})))
            assert answer.status == 200
            await answer.read()
        assert asyncio.get_running_loop().time() - began >= 4 * ANSWER_SECONDS


async def test_only_so_many_polls_wait_at_once(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    async with TestClient(TestServer(application(gateway.agent))) as page:
        asked = dump_poll(Poll({UID: Interest()}))
        assert (await page.post("/state", data=asked)).status == 200
        monkeypatch.setattr("dspy_gateway.server.MOST_WAITING", 0)
        assert (await page.post("/state", data=asked)).status == 429


# Draw tables.


async def test_a_request_is_counted_under_the_table_that_drew_it_whenever_it_ends(
    gateway: Gateway, upstreams: dict[str, Upstream]
) -> None:
    await gateway.serve(releasing(gateway, {"old": 5_000, "new": 5_000}))
    await gateway.poll(UID, guarding=1)
    await until(lambda: gateway.agent.state().programs[UID].effective["new"] == 5_000, "the switch is on")
    await gateway.confirmed()
    upstreams["new"].delay_seconds = upstreams["old"].delay_seconds = 1.5
    upstreams["new"].status, upstreams["new"].outcome = 500, "program_error"
    asking = asyncio.create_task(ask_many(gateway.url(UID), 40, clients=40))
    await until(lambda: sum(each.seen["/predict"] for each in upstreams.values()) == 40, "forty are in flight")
    await gateway.serve(releasing(gateway, {"old": 10_000, "new": 0}))
    answers = await asking
    await until(lambda: settled(gateway, {"old": 5_000, "new": 5_000}), "the table is settled")
    table = next(each for each in await looked_at(gateway) if dict(each.weights) == {"old": 5_000, "new": 5_000})
    assert table.counts["new"].outcomes == {"program_error": answers[500, "new"]}
    assert table.counts["old"].outcomes == {"ok": answers[200, "old"]}


async def test_requests_that_hang_are_counted_at_each_age_while_they_hang(
    gateway: Gateway, upstreams: dict[str, Upstream]
) -> None:
    upstreams["old"].delay_seconds = 30
    asking = asyncio.create_task(ask_many(gateway.url(UID), 20, clients=20))
    second, two = EDGES_SECONDS.index(1.0), EDGES_SECONDS.index(2.0)

    async def all_are_two_seconds_old() -> bool:
        return any(each.counts["old"].older.get(two) == 20 for each in await looked_at(gateway) if each.counts)

    await until(all_are_two_seconds_old, "all became two seconds old")
    (table,) = (each for each in await looked_at(gateway) if each.counts)
    assert (table.counts["old"].started, table.counts["old"].older[second]) == (20, 20)
    assert table.counts["old"].answered == 0
    asking.cancel()


async def test_quick_answers_tell_their_age_when_they_end(gateway: Gateway, upstreams: dict[str, Upstream]) -> None:
    upstreams["old"].delay_seconds = 0.12
    await ask_many(gateway.url(UID), 20)
    await until_counted(gateway, {"old": Counts(20, {"ok": 20})}, "twenty counted")
    (table,) = (each for each in await looked_at(gateway) if each.counts)
    older = table.counts["old"].older
    assert (older.get(EDGES_SECONDS.index(0.1)), older.get(EDGES_SECONDS.index(0.35))) == (20, None)


async def test_a_candidate_has_weight_only_while_somebody_guards_it(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dspy_gateway.switches.SWITCH_SECONDS", 0.6)
    await gateway.serve(releasing(gateway, {"old": 0, "new": 10_000}))
    assert gateway.agent.state().programs[UID].effective == {"old": 10_000, "new": 0}
    await gateway.poll(UID, guarding=1)
    await until(lambda: gateway.agent.state().programs[UID].effective["new"] == 10_000, "guarded, it has its weight")
    await until(lambda: gateway.agent.state().programs[UID].effective["new"] == 0, "alone, it loses it")
    await gateway.poll(UID, guarding=2)
    assert gateway.agent.state().programs[UID].effective["new"] == 0, "the guard of another release means nothing"
    assert set(await ask_many(gateway.url(UID), 20)) == {(200, "old")}


async def test_an_unguarded_candidate_still_answers_when_stable_cannot(gateway: Gateway) -> None:
    await gateway.serve(releasing(gateway, {"old": 9_000, "new": 1_000}).with_slice("old", "old-slice", ()))
    assert set(await ask_many(gateway.url(UID), 20)) == {(200, "new")}


async def test_the_operator_asks_for_another_table_by_the_epoch(gateway: Gateway) -> None:
    await gateway.serve(releasing(gateway, {"old": 10_000, "new": 0}))
    before = max(table.number for table in await looked_at(gateway))
    await gateway.serve(releasing(gateway, {"old": 10_000, "new": 0}, epoch=1))
    newest = (await looked_at(gateway))[-1]
    assert newest.number > before
    assert newest.epoch == 1


async def test_settled_tables_that_the_operator_keeps_are_forgotten_and_totals_go_on(gateway: Gateway) -> None:
    await ask_many(gateway.url(UID), 10)
    await until_counted(gateway, {"old": Counts(10, {"ok": 10})}, "ten counted")
    await gateway.serve(releasing(gateway, {"old": 10_000, "new": 0}))
    first = (await looked_at(gateway))[0].number
    await until(lambda: settled(gateway, {"old": 10_000, "new": 0}), "the first table is settled")
    state = await gateway.poll(UID, kept=first)
    assert first not in {table.number for table in state.tables}
    assert (await gateway.counted(UID))["old"] == Counts(10, {"ok": 10})


async def test_what_an_envoy_had_open_when_it_died_is_lost_and_nothing_draws_as_before(
    gateway: Gateway, upstreams: dict[str, Upstream]
) -> None:
    upstreams["old"].delay_seconds = 30
    asking = asyncio.create_task(ask_many(gateway.url(UID), 10, clients=10))
    await until_counted(gateway, {"old": Counts(10, {})}, "ten are open")
    before = (await looked_at(gateway))[-1].number
    await gateway.kill_envoy()
    await asyncio.gather(asking, return_exceptions=True)
    await gateway.start_envoy()
    await gateway.confirmed()
    await until_counted(gateway, {"old": Counts(10, {"lost": 10})}, "ten are lost")
    tables = await looked_at(gateway)
    assert tables[-1].number > before
    assert tables[0].settled


async def test_without_its_file_an_agent_begins_a_new_incarnation(gateway: Gateway) -> None:
    await ask_many(gateway.url(UID), 10)
    await until_counted(gateway, {"old": Counts(10, {"ok": 10})}, "ten counted")
    before = gateway.agent.book.incarnation
    await gateway.stop_agent()
    (gateway.settings.folder / "book.json").write_text("{half")
    await gateway.start_agent()
    await gateway.confirmed()
    assert gateway.agent.book.incarnation != before
    assert await gateway.counted(UID) == {}


# What must not take a gateway down, and what must not be answered.


async def test_envoys_readiness_does_not_hang_on_the_agent(gateway: Gateway) -> None:
    await gateway.stop_agent()
    assert await gateway.ready()
    await gateway.start_agent()


async def test_routes_that_no_envoy_would_take_leave_the_last_good_ones_and_are_told(gateway: Gateway) -> None:
    routes = gateway.agent.desired.routes[UID]
    broken = replace(routes, serial=2, backends=(Backend("old", 10_000), Backend("two\nlines", 0)))
    await gateway.agent.update(gateway.agent.desired.with_routes(broken))
    await until(lambda: gateway.agent.state().programs[UID].refusal != "", "the refusal is told")
    assert gateway.agent.state().programs[UID].serial == 1
    assert set(await ask_many(gateway.url(UID), 20)) == {(200, "old")}


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("program-{uid}", 200), ("program-{uid}.default", 200), ("program-{uid}.default.svc", 200),
        ("program-{uid}.default.svc.cluster.local:80", 200), ("127.0.0.1:8080", 200), ("localhost:8080", 200),
        ("triage.example.com", 200), ("other", 421), ("other.default", 421), ("other.elsewhere.svc", 421),
        ("OTHER.default.svc.cluster.local", 421), ("triage.example.default", 200), ("triage.example.svc", 421),
        ("outbound_.80_._.program-{uid}.default.svc.cluster.local", 200),
        ("outbound_.80_._.other.default.svc.cluster.local", 421), ("pod-0.other.default.svc", 421),
    ],
)  # fmt: skip
async def test_a_request_by_the_name_of_another_program_is_refused(gateway: Gateway, host: str, status: int) -> None:
    headers = {"Host": host.format(uid=UID)}
    async with aiohttp.ClientSession() as session, session.post(gateway.url(UID), json={}, headers=headers) as response:
        assert response.status == status


async def test_a_request_without_a_host_is_answered(gateway: Gateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.agent.desired.ports.ports[UID].port)
    writer.write(b"POST /predict HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}")
    assert b"200" in await reader.readline()
    writer.close()


async def test_an_escaped_path_runs_no_uncounted_prediction(gateway: Gateway, upstreams: dict[str, Upstream]) -> None:
    url = URL(gateway.url(UID, "/%70redict"), encoded=True)
    async with aiohttp.ClientSession() as session, session.post(url, json={}) as response:
        assert response.status == 200
    await until_counted(gateway, {"old": Counts(1, {"ok": 1})}, "it is counted")


async def test_large_bodies_survive_a_dead_pod(gateway: Gateway, upstreams: dict[str, Upstream]) -> None:
    dead = replace(upstreams["old"].endpoint, port=free_port())
    await gateway.serve(gateway.agent.desired.with_slice("old", "second-slice", (dead,)))
    async with aiohttp.ClientSession() as session:
        for _ in range(20):
            async with session.post(gateway.url(UID), data=io.BytesIO(b"x" * (8 << 20))) as response:
                assert response.status == 200


def releasing(gateway: Gateway, weights: dict[str, int], epoch: int = 0) -> DesiredState:
    """The same desired state with these weights and a release from old to new."""
    desired = weighted(gateway.agent.desired, UID, weights)
    release = ReleaseRef(1, "old", ("new",), epoch)
    routes = replace(desired.routes[UID], serial=desired.routes[UID].serial + 1, release=release)
    return desired.with_routes(routes)


async def looked_at(gateway: Gateway) -> tuple[DrawTable, ...]:
    """The draw tables after a look."""
    await gateway.agent.look()
    return gateway.agent.book.tables(UID, time.monotonic())


async def settled(gateway: Gateway, weights: dict[str, int]) -> bool:
    """True when the oldest table of these weights is settled."""
    return next((table.settled for table in await looked_at(gateway) if dict(table.weights) == weights), False)


async def until_counted(gateway: Gateway, expected: dict[str, Counts], words: str) -> None:
    """Waits until the totals of these revisions are as expected."""

    async def counted() -> bool:
        totals = await gateway.counted(UID)
        return all(totals.get(revision) == counts for revision, counts in expected.items())

    await until(counted, words)
