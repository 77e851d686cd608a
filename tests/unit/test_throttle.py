"""How many calls of an endpoint may be under way."""

from __future__ import annotations

import asyncio
import math

import pytest

from dspy_runtime.lm.throttle import DECREASE, Throttle


async def entered(throttle: Throttle, count: int) -> list[int]:
    return [await throttle.enter() for _ in range(count)]


async def test_nothing_waits_until_a_provider_refuses() -> None:
    throttle = Throttle()
    rounds = await asyncio.wait_for(entered(throttle, 1_000), 1)
    assert len(rounds) == 1_000
    assert throttle.most == math.inf


async def test_refusals_of_one_round_cut_once_and_those_of_the_next_again() -> None:
    throttle = Throttle()
    first = await entered(throttle, 100)
    for each in first:
        throttle.leave(each, refused=True)
    assert throttle.most == pytest.approx(100 * DECREASE)
    second = await entered(throttle, 70)
    throttle.leave(second[0], refused=True)
    assert throttle.most == pytest.approx(70 * DECREASE)


async def test_who_finds_no_room_waits_its_turn_and_who_leaves_the_queue_takes_nobodys() -> None:
    throttle = Throttle()
    rounds = await entered(throttle, 2)
    throttle.leave(rounds[0], refused=True)
    assert throttle.most == pytest.approx(1.4)
    gone, waits = (asyncio.ensure_future(throttle.enter()) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    assert not waits.done()
    throttle.leave(rounds[1])
    turn = await asyncio.wait_for(waits, 1)
    woken, last = (asyncio.ensure_future(throttle.enter()) for _ in range(2))
    await asyncio.sleep(0)
    assert not woken.done()
    throttle.leave(turn)
    woken.cancel()  # in the moment in which its turn has come
    throttle.leave(await asyncio.wait_for(last, 1))
    throttle.leave(await asyncio.wait_for(throttle.enter(), 1))


async def test_what_fails_otherwise_changes_nothing() -> None:
    throttle = Throttle()
    first, second = await entered(throttle, 2)
    throttle.leave(first, refused=True)
    most = throttle.most
    throttle.leave(second)
    assert throttle.most == most


async def test_it_grows_by_about_one_a_round_while_it_binds() -> None:
    throttle = Throttle()
    for each in await entered(throttle, 10):
        throttle.leave(each, refused=True)
    assert throttle.most == pytest.approx(7)
    for _ in range(5):
        for each in await entered(throttle, int(throttle.most)):
            throttle.leave(each, answered=True)
    assert 7.5 <= throttle.most <= 12
    idle = throttle.most
    for _ in range(100):
        throttle.leave(await throttle.enter(), answered=True)
    assert throttle.most == idle, "what does not bind does not grow"
