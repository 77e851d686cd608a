"""Conversations, with a real Envoy: each stays where it began, whatever becomes of the weights, unless its revision has
none."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from dspy_contract.routes import Backend, Conversations, ReleaseRef
from dspy_contract.stat_names import mirrored
from dspy_contract.state import Interest, Met
from dspy_gateway.resources import DesiredState
from tests.integration.gateway import Gateway, Upstream, free_port, inputs_of, running_gateway, until, weighted

UID = "0b5c6d7e-0000-4000-8000-000000000001"
HEADER = "x-chat"
BOTH = Conversations(header=HEADER, cookie="chat", cookie_seconds=1_800)
MANY = 400


@pytest.fixture
async def upstreams() -> AsyncIterator[dict[str, Upstream]]:
    async with AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(Upstream(name).running()) for name in ("old", "new")}


def talking(upstreams: Mapping[str, Upstream], candidate: int, kept: Conversations = BOTH) -> DesiredState:
    inputs = inputs_of(UID, 1, {"old": 10_000 - candidate, "new": candidate}, upstreams, free_port())
    release = ReleaseRef(1, "old", ("new",))
    return inputs.with_routes(replace(inputs.routes[UID], serial=2, release=release, conversations=kept))


class Clients:
    """Clients that send back what they are given: the odd ones a cookie, the others a header."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.tokens: dict[int, str] = {}

    async def ask(self, numbers: range, path: str = "/predict") -> dict[int, str]:
        """Which revision answered each, with one request."""
        found: dict[int, str] = {}
        left = iter(numbers)

        async def client(session: aiohttp.ClientSession) -> None:
            for number in left:
                found[number] = await self._ask(session, number, path)

        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
            await asyncio.gather(*(client(session) for _ in range(16)))
        return found

    async def _ask(self, session: aiohttp.ClientSession, number: int, path: str) -> str:
        token, headers = self.tokens.get(number), {}
        if token is not None:
            headers = {"cookie": f"a=b; chat={token}; c=d"} if number % 2 else {HEADER: token}
        async with session.post(self._gateway.url(UID, path), json={}, headers=headers) as response:
            given = response.headers.get(HEADER)
            cookies = response.headers.getall("set-cookie", [])
            if given is not None:
                assert cookies == [f"chat={given}; Path=/; Max-Age=1800; HttpOnly; SameSite=Lax"]
                self.tokens[number] = given
            return response.headers["x-dspy-revision"]


def met(gateway: Gateway) -> tuple[Met, ...]:
    log = gateway.agent.state({UID: Interest()}).programs[UID].users
    return log.met if log else ()


async def test_a_conversation_stays_through_changes_of_weights(tmp_path: Path, upstreams: dict[str, Upstream]) -> None:
    async with running_gateway(tmp_path, talking(upstreams, 2_000)) as gateway:
        clients = Clients(gateway)
        await gateway.guarded(UID, 1, "new")
        first = await clients.ask(range(MANY))
        assert 0.1 * MANY < list(first.values()).count("new") < 0.3 * MANY
        began = dict(clients.tokens)
        assert await clients.ask(range(MANY), "/schema") == first, "all of their requests go there"

        await gateway.serve(weighted(gateway.agent.desired, UID, {"old": 500, "new": 9_500}))
        await gateway.guarded(UID, 1, "new")
        assert await clients.ask(range(MANY)) == first
        later = await clients.ask(range(MANY, 2 * MANY))
        assert list(later.values()).count("new") > 0.85 * MANY
        assert {number: clients.tokens[number] for number in first} == began, "a token is given once"

        await gateway.kill_envoy()
        await gateway.stop_agent()
        await gateway.start_agent()
        await gateway.start_envoy()
        await gateway.confirmed()
        assert await clients.ask(range(2 * MANY)) == first | later, "a restart moves nobody, watched or not"


async def test_a_conversation_leaves_a_revision_without_weight_and_comes_back_with_it(
    tmp_path: Path, upstreams: dict[str, Upstream]
) -> None:
    async with running_gateway(tmp_path, talking(upstreams, 5_000)) as gateway:
        clients = Clients(gateway)
        await gateway.guarded(UID, 1, "new")
        first = await clients.ask(range(MANY))
        began = dict(clients.tokens)
        await gateway.serve(weighted(gateway.agent.desired, UID, {"old": 10_000, "new": 0}))
        assert set((await clients.ask(range(MANY))).values()) == {"old"}
        assert clients.tokens == began
        await gateway.serve(weighted(gateway.agent.desired, UID, {"old": 9_000, "new": 1_000}))
        await gateway.guarded(UID, 1, "new")
        assert await clients.ask(range(MANY)) == first
        await gateway.serve(weighted(gateway.agent.desired, UID, {"old": 10_000}))
        assert set((await clients.ask(range(MANY))).values()) == {"old"}
        moved = {number for number in first if clients.tokens[number] != began[number]}
        assert moved == {number for number, revision in first.items() if revision == "new"}, "they began anew"


async def test_what_conversations_meet_counts_where_and_as_they_were_drawn(
    tmp_path: Path, upstreams: dict[str, Upstream]
) -> None:
    async with running_gateway(tmp_path, talking(upstreams, 2_000)) as gateway:
        clients = Clients(gateway)
        await gateway.guarded(UID, 1, "new")
        first = await clients.ask(range(MANY))
        await gateway.serve(weighted(gateway.agent.desired, UID, {"old": 5_000, "new": 5_000}))
        await gateway.guarded(UID, 1, "new")
        upstreams["new"].status, upstreams["new"].outcome = 500, "program_error"
        assert await clients.ask(range(MANY)) == first
        failed = list(first.values()).count("new")
        await until(lambda: sum(each.outcome == "program_error" for each in met(gateway)) == failed, "all are told")
        weights: dict[str, set[int]] = defaultdict(set)
        for event in met(gateway):
            weights[event.revision].add(event.weight)
        assert weights == {"old": {8_000}, "new": {2_000}}
        assert len({event.user for event in met(gateway)}) == MANY
        counted = await gateway.counted(UID)
        assert counted["new/users"].outcomes == {"ok": failed, "program_error": failed}
        assert counted.keys() == {"old/users", "new/users"}


async def test_without_a_release_conversations_are_given_tokens_and_nothing_is_told(
    tmp_path: Path, upstreams: dict[str, Upstream]
) -> None:
    """So that they are known when a release begins; what was drawn before it is no part of it."""
    inputs = inputs_of(UID, 1, {"old": 10_000}, upstreams, free_port())
    inputs = inputs.with_routes(replace(inputs.routes[UID], serial=2, conversations=BOTH))
    async with running_gateway(tmp_path, inputs) as gateway:
        clients = Clients(gateway)
        assert set((await clients.ask(range(MANY))).values()) == {"old"}
        release, backends = ReleaseRef(1, "old", ("new",)), (Backend("old", 1_000), Backend("new", 9_000))
        routes = replace(gateway.agent.desired.routes[UID], serial=3, release=release, backends=backends)
        await gateway.serve(gateway.agent.desired.with_routes(routes))
        await gateway.guarded(UID, 1, "new")
        assert set((await clients.ask(range(MANY))).values()) == {"old"}
        assert met(gateway) == ()
        assert Counter((await clients.ask(range(MANY, 2 * MANY))).values())["new"] > 0.8 * MANY
        await until(lambda: len({each.user for each in met(gateway)}) == MANY, "those that began since are told of")


async def test_requests_of_conversations_are_copied_as_well(tmp_path: Path, upstreams: dict[str, Upstream]) -> None:
    inputs = talking(upstreams, 0)
    backends = (Backend("old", 10_000), Backend("new", 0, mirror=10_000))
    inputs = inputs.with_routes(replace(inputs.routes[UID], serial=3, backends=backends))
    async with running_gateway(tmp_path, inputs) as gateway:
        clients = Clients(gateway)
        await gateway.guarded(UID, 1, mirrored("new"))
        for _ in range(2):
            assert set((await clients.ask(range(MANY))).values()) == {"old"}
        await until(lambda: upstreams["new"].seen["/predict"] == 2 * MANY, "each is copied")
