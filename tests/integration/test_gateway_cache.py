"""Requests that are judged go past the caches of revisions, with a real Envoy; the others do not, and are counted
apart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from dspy_contract.routes import Backend, ReleaseRef, Users
from dspy_contract.stat_names import cached
from dspy_gateway.resources import DesiredState
from tests.integration.gateway import Upstream, ask_many, free_port, inputs_of, running_gateway, until

UID = "0b5c6d7e-0000-4000-8000-000000000003"
OLD, NEW = "old", "new"
RELEASE = ReleaseRef(1, OLD, (NEW,))


@pytest.fixture
async def upstreams() -> AsyncIterator[dict[str, Upstream]]:
    async with AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(Upstream(name).running()) for name in (OLD, NEW)}


def with_caches(upstreams: dict[str, Upstream], weight: int, release: ReleaseRef | None = RELEASE) -> DesiredState:
    inputs = inputs_of(UID, 1, {OLD: 10_000 - weight, NEW: weight}, upstreams, free_port())
    backends = (Backend(OLD, 10_000 - weight), Backend(NEW, weight))
    return inputs.with_routes(replace(inputs.routes[UID], serial=2, release=release, backends=backends, cached=True))


async def test_as_many_of_stables_as_of_the_candidates_go_past_the_cache(
    tmp_path: Path, upstreams: dict[str, Upstream]
) -> None:
    async with running_gateway(tmp_path, with_caches(upstreams, 2_500)) as gateway:
        await gateway.guarded(UID, 1, NEW)
        answers = await ask_many(gateway.url(UID), 4_000)
        assert answers.keys() == {(200, OLD), (200, NEW)}
        new = answers[200, NEW]

        async def all_counted() -> bool:
            counts = await gateway.counted(UID)
            return sum(each.answered for name, each in counts.items()) == 4_000

        await until(all_counted, "every request is counted")
        counts = {name: each.answered for name, each in (await gateway.counted(UID)).items()}
        assert counts == {OLD: upstreams[OLD].told["refresh"], cached(OLD): upstreams[OLD].told[""], NEW: new}
        assert upstreams[NEW].told == {"refresh": new}
        assert 850 < counts[OLD] < 1_150, "a quarter of 4,000"
        assert 850 < counts[NEW] < 1_150


async def test_nothing_goes_past_the_cache_while_nothing_is_released(
    tmp_path: Path, upstreams: dict[str, Upstream]
) -> None:
    async with running_gateway(tmp_path, with_caches(upstreams, 0, release=None)) as gateway:
        assert set(await ask_many(gateway.url(UID), 200)) == {(200, OLD)}
        assert upstreams[OLD].told == {"": 200}

        async def all_counted() -> bool:
            counts = await gateway.counted(UID)
            return {name: each.answered for name, each in counts.items()} == {cached(OLD): 200}

        await until(all_counted, "they are counted apart")
        async with (
            aiohttp.ClientSession() as session,
            session.post(gateway.url(UID), json={}, headers={"x-dspy-cache": "refresh"}) as response,
        ):
            assert response.status == 200
        assert upstreams[OLD].told == {"": 201}, "that is no client's to say"


async def test_all_requests_of_users_who_are_compared_go_past_the_cache(
    tmp_path: Path, upstreams: dict[str, Upstream]
) -> None:
    inputs = with_caches(upstreams, 5_000)
    inputs = inputs.with_routes(replace(inputs.routes[UID], serial=3, users=Users(header="x-user")))
    async with running_gateway(tmp_path, inputs) as gateway:
        await gateway.guarded(UID, 1, NEW)
        async with aiohttp.ClientSession() as session:
            for user in range(60):
                async with session.post(gateway.url(UID), json={}, headers={"x-user": f"u{user}"}) as response:
                    assert response.status == 200
        assert upstreams[OLD].told["refresh"] + upstreams[NEW].told["refresh"] == 60
        assert upstreams[OLD].told.keys() | upstreams[NEW].told.keys() == {"refresh"}
