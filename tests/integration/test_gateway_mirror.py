"""Copies of requests, with a real Envoy: a share of them goes to the candidate, is counted, and concerns no client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from dspy_contract.routes import Backend, ReleaseRef
from dspy_contract.stat_names import mirrored
from dspy_contract.state import Interest
from dspy_gateway.resources import DesiredState
from tests.integration.gateway import Gateway, Upstream, ask_many, free_port, inputs_of, running_gateway, until

UID = "0b5c6d7e-0000-4000-8000-000000000001"
OLD, NEW, COPIES = "old", "new", mirrored("new")


@pytest.fixture
async def upstreams() -> AsyncIterator[dict[str, Upstream]]:
    async with AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(Upstream(name).running()) for name in (OLD, NEW)}


def mirroring(upstreams: dict[str, Upstream], percent: float) -> DesiredState:
    inputs = inputs_of(UID, 1, {OLD: 10_000, NEW: 0}, upstreams, free_port())
    backends = (Backend(OLD, 10_000), Backend(NEW, 0, mirror=round(percent * 100)))
    release = ReleaseRef(1, OLD, (NEW,))
    return inputs.with_routes(replace(inputs.routes[UID], serial=2, release=release, backends=backends))


async def copied(gateway: Gateway) -> int:
    counts = (await gateway.counted(UID)).get(COPIES)
    return counts.answered if counts else 0


async def test_a_share_is_copied_and_counted_under_its_draw_table(
    tmp_path: Path, upstreams: dict[str, Upstream]
) -> None:
    upstreams[NEW].outcome, upstreams[NEW].status = "program_error", 500
    upstreams[NEW].delay_seconds, upstreams[NEW].tokens = 0.3, "7"
    async with running_gateway(tmp_path, mirroring(upstreams, 20)) as gateway:
        await gateway.guarded(UID, 1, COPIES)
        assert set(await ask_many(gateway.url(UID), 2_000)) == {(200, OLD)}, "no client sees the candidate"
        await until(lambda: upstreams[NEW].seen["/predict"] > 300, "copies arrive")

        async def all_counted() -> bool:
            return await copied(gateway) == upstreams[NEW].seen["/predict"]

        await until(all_counted, "every copy is counted")
        state = gateway.agent.state({UID: Interest()}).programs[UID]
        assert state.effective == {OLD: 10_000, NEW: 0, COPIES: 2_000}
        tables = [table for table in state.tables if table.counts.get(COPIES)]
        assert all(table.weights == state.effective for table in tables)
        slow = sum(table.counts[COPIES].older[3] for table in tables)
        counts = state.totals[COPIES]
        assert 300 < counts.answered < 500
        assert counts.outcomes == {"program_error": counts.answered}
        assert counts.tokens == 7 * counts.answered
        assert slow == counts.answered, "their ages are known"
        assert state.totals[OLD].outcomes == {"ok": 2_000}
        assert NEW not in state.totals


async def test_nothing_else_is_copied(tmp_path: Path, upstreams: dict[str, Upstream]) -> None:
    """Nor is what the candidate answers while nobody watches it."""
    async with running_gateway(tmp_path, mirroring(upstreams, 100)) as gateway:
        await ask_many(gateway.url(UID), 50)
        assert not upstreams[NEW].seen, "nobody watches yet"
        await gateway.guarded(UID, 1, COPIES)
        async with aiohttp.ClientSession() as session:
            for path in ("/schema", "/healthz"):
                async with session.get(gateway.url(UID, path)) as response:
                    assert response.headers["x-dspy-revision"] == OLD
        await ask_many(gateway.url(UID), 50)
        await until(lambda: upstreams[NEW].seen["/predict"] == 50, "each prediction is copied")
        assert upstreams[NEW].seen.keys() == {"/predict"}


async def test_a_candidate_that_hangs_holds_up_no_client(tmp_path: Path, upstreams: dict[str, Upstream]) -> None:
    """Its copies end by the program's own time-out."""
    upstreams[NEW].delay_seconds = 30.0
    inputs = mirroring(upstreams, 100)
    # Long enough for the machine to stand still meanwhile: a request that is not there to its end in time is given up.
    inputs = inputs.with_routes(replace(inputs.routes[UID], serial=3, timeout_seconds=6))
    async with running_gateway(tmp_path, inputs) as gateway:
        await gateway.guarded(UID, 1, COPIES)
        assert set(await ask_many(gateway.url(UID), 200)) == {(200, OLD)}

        async def all_over() -> bool:
            return await copied(gateway) == 200

        await until(all_over, "the copies have timed out")
        assert (await gateway.counted(UID))[COPIES].outcomes == {"timeout": 200}


async def test_a_copy_that_is_uploaded_too_slowly_tells_nothing(tmp_path: Path, upstreams: dict[str, Upstream]) -> None:
    """A request's own time runs from its end, a copy's from its beginning."""
    inputs = mirroring(upstreams, 100)
    inputs = inputs.with_routes(replace(inputs.routes[UID], serial=3, timeout_seconds=1))

    async def slowly() -> AsyncIterator[bytes]:
        for part in (b'{"a": ', b"1", b"}"):
            yield part
            await asyncio.sleep(1.0)  # the upload itself is slow: beyond the program's time-out

    async with running_gateway(tmp_path, inputs) as gateway:
        await gateway.guarded(UID, 1, COPIES)
        async with (
            aiohttp.ClientSession() as session,
            session.post(gateway.url(UID), data=slowly()) as response,
        ):
            assert response.status == 200

        async def is_over() -> bool:
            return await copied(gateway) == 1

        await until(is_over, "the copy is over")
        assert (await gateway.counted(UID))[COPIES].outcomes == {"lost": 1}


async def test_a_candidate_without_pods_gets_no_copies(tmp_path: Path, upstreams: dict[str, Upstream]) -> None:
    inputs = mirroring(upstreams, 100)
    async with running_gateway(tmp_path, replace(inputs, slices={OLD: inputs.slices[OLD]})) as gateway:
        await gateway.poll(UID, guarding=1)
        assert set(await ask_many(gateway.url(UID), 50)) == {(200, OLD)}
        assert (await gateway.poll(UID, guarding=1)).effective == {OLD: 10_000, NEW: 0}
        assert (await gateway.counted(UID)).keys() == {OLD}
