"""Places: whatever order requests lend, take back, leave and are cancelled in, every place is free at the end."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_runtime.admission import Admission, OverloadedError, Place, Priority

CONCURRENCY, QUEUE = 2, 2
Acts = list[tuple[str, int]]
ACTS = st.lists(st.tuples(st.sampled_from(["enter", "lend", "back", "cancel", "keep", "leave"]), st.integers(0, 4)))


@given(ACTS)
def test_no_place_is_lost(acts: Acts) -> None:
    asyncio.run(_story(acts))


async def _story(acts: Acts) -> None:
    admission = Admission(CONCURRENCY, QUEUE)
    users: list[tuple[Place, list[int]]] = []
    coming: list[asyncio.Task[None]] = []
    for act, number in acts:
        if act == "enter" and admission.is_open() and not admission.waiting:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0):
                    users.append((await admission.enter(), [1]))
        if act == "cancel" and coming:
            coming[number % len(coming)].cancel()
        if not users:
            continue
        place, count = users[number % len(users)]
        if act == "lend" and count[0]:
            await place.lend()
            coming.append(asyncio.create_task(_lent(place)))
        if act == "back":
            await asyncio.sleep(0)
        if act == "keep" and count[0]:
            place.keep()
            count[0] += 1
        if act == "leave" and count[0]:
            place.leave()
            count[0] -= 1
        assert admission.running <= CONCURRENCY
    for place, count in users:
        for _ in range(count[0]):
            place.leave()
    for task in coming:
        task.cancel()
    await asyncio.gather(*coming, return_exceptions=True)
    for _ in range(3):
        await asyncio.sleep(0)
    assert (admission.running, admission.waiting, admission.lent) == (0, 0, 0)
    for _ in range(CONCURRENCY):
        async with asyncio.timeout(1):
            await admission.enter()


async def _lent(place: Place) -> None:
    try:
        await asyncio.sleep(0)
    finally:
        await place.take_back()


async def test_who_lent_a_place_wants_it_back_and_so_waits_as_well() -> None:
    admission = Admission(1, 1)
    first = await admission.enter()
    await first.lend()
    second = await admission.enter()
    await second.lend()  # the queue has no room for a second one that wants back
    assert (admission.running, admission.lent) == (1, 1)
    with pytest.raises(OverloadedError):
        await admission.enter()
    back = asyncio.create_task(first.take_back())
    await asyncio.sleep(0)
    second.leave()
    await back
    assert (admission.running, admission.lent) == (1, 0)


async def test_a_place_is_kept_where_the_queue_has_no_room_and_one_that_was_left_is_not_taken_back() -> None:
    admission = Admission(1, 0)
    place = await admission.enter()
    await place.lend()
    assert admission.running == 1
    await place.take_back()
    roomy = Admission(1, 1)
    place = await roomy.enter()
    await place.lend()
    place.leave()
    await place.take_back()
    assert roomy.running == 0


async def test_who_is_more_urgent_goes_first_and_takes_the_place_of_others_in_a_full_queue() -> None:
    admission = Admission(1, 2)
    running = await admission.enter()
    asked = {"low": Priority.LOW, "normal": Priority.NORMAL, "high": Priority.HIGH, "last": Priority.LOW}
    came: list[str] = []

    async def enter(name: str) -> None:
        place = await admission.enter(asked[name])
        came.append(name)
        place.leave()

    tasks = {}
    for name in asked:
        tasks[name] = asyncio.create_task(enter(name))
        await asyncio.sleep(0)
    for name in ("low", "last"):  # one was there before, the other found nobody who may wait less
        with pytest.raises(OverloadedError):
            await tasks[name]
    running.leave()
    await asyncio.gather(tasks["normal"], tasks["high"])
    assert came == ["high", "normal"]
    assert (admission.running, admission.waiting) == (0, 0)


async def test_a_place_that_is_wanted_back_goes_before_everybody() -> None:
    admission = Admission(1, 3)
    first = await admission.enter()
    await first.lend()
    second = await admission.enter()
    back = asyncio.create_task(first.take_back())
    await asyncio.sleep(0)
    urgent = asyncio.create_task(admission.enter(Priority.HIGH))
    await asyncio.sleep(0)
    second.leave()
    await asyncio.wait_for(back, 1)
    assert not urgent.done()
    first.leave()
    (await asyncio.wait_for(urgent, 1)).leave()
