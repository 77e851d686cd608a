"""Who leads: one of many, and after its end another within eight seconds."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from dspy_kube.client import Kube
from dspy_kube.lease import Lease, LeaseLostError
from tests.simulation.api import SYSTEM, ApiServer, refusal
from tests.simulation.clock import VirtualLoop


def lease(api: ApiServer, holder: str) -> Lease:
    return Lease(cast("Kube", api), SYSTEM, "dspy-operator", holder)


def test_one_leads_and_another_takes_over_within_eight_seconds_of_its_end(loop: VirtualLoop) -> None:
    async def story() -> float:
        api = ApiServer()
        first, second = lease(api, "first"), lease(api, "second")
        await first.acquire()
        keeping = asyncio.create_task(first.keep())
        waiting = asyncio.create_task(second.acquire())
        await asyncio.sleep(60)
        assert first.held()
        assert not waiting.done()
        keeping.cancel()
        died_at = loop.time()
        await waiting
        assert not first.held()
        return loop.time() - died_at

    assert loop.run_until_complete(story()) <= 8.0


def test_renewing_reads_nothing(loop: VirtualLoop) -> None:
    async def story() -> None:
        api = ApiServer()
        leader = lease(api, "first")
        await leader.acquire()
        read = api.calls["get leases"]
        keeping = asyncio.create_task(leader.keep())
        await asyncio.sleep(60)
        keeping.cancel()
        assert api.calls["get leases"] == read
        assert api.calls["update leases"] >= 30

    loop.run_until_complete(story())


def test_a_lease_that_is_given_back_is_taken_at_once(loop: VirtualLoop) -> None:
    async def story() -> float:
        api = ApiServer()
        first, second = lease(api, "first"), lease(api, "second")
        await first.acquire()
        waiting = asyncio.create_task(second.acquire())
        await asyncio.sleep(5)
        await first.release()
        released_at = loop.time()
        await waiting
        return loop.time() - released_at

    assert loop.run_until_complete(story()) <= 1.0


def test_who_cannot_renew_leads_no_more_before_anybody_else_does(loop: VirtualLoop) -> None:
    async def story() -> None:
        api = ApiServer()
        first, second = lease(api, "first"), lease(api, "second")
        await first.acquire()
        keeping = asyncio.create_task(first.keep())
        await asyncio.sleep(10)
        waiting = asyncio.create_task(second.acquire())
        await asyncio.sleep(1)
        api.faults.append(lambda call, query: refusal(500, "no"))
        with pytest.raises(LeaseLostError):
            await keeping
        assert not first.held()
        assert not waiting.done()
        api.faults.clear()
        await waiting
        assert second.held()

    loop.run_until_complete(story())
