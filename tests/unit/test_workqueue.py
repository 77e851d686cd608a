"""The work queue: each key once, one pass at a time, later when asked, again when it failed."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import pytest

from dspy_operator.errors import RetryError
from dspy_operator.workqueue import Key, WorkQueue
from tests.simulation.clock import VirtualLoop

A, B = Key("program", "ns", "a"), Key("program", "ns", "b")
Work = Callable[[Key], Awaitable[float | None]]


async def run(work: Work, begin: Callable[[WorkQueue], None], until: asyncio.Event) -> None:
    """Runs a queue until the event."""
    queue = WorkQueue("test", work)
    begin(queue)
    running = asyncio.create_task(queue.run(4))
    await asyncio.wait_for(until.wait(), 10)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_key_added_many_times_is_worked_on_once() -> None:
    seen: list[Key] = []
    done = asyncio.Event()

    async def work(key: Key) -> None:
        seen.append(key)
        if key == B:
            done.set()

    def begin(queue: WorkQueue) -> None:
        for key in (A, A, A, B):
            queue.add(key)

    await run(work, begin, done)
    assert seen == [A, B]


async def test_a_key_added_while_it_runs_runs_once_more_and_never_twice_at_once() -> None:
    running, passes = 0, 0
    done = asyncio.Event()
    queues: list[WorkQueue] = []

    async def work(key: Key) -> None:
        nonlocal running, passes
        running, passes = running + 1, passes + 1
        assert running == 1
        if passes == 1:
            queues[0].add(key)
            queues[0].add(key)
        await asyncio.sleep(0)
        running -= 1
        if passes == 2:
            done.set()

    def begin(queue: WorkQueue) -> None:
        queues.append(queue)
        queue.add(A)

    await run(work, begin, done)
    assert passes == 2


async def test_a_key_comes_back_after_the_delay_that_its_work_returned() -> None:
    passes = 0
    done = asyncio.Event()

    async def work(_: Key) -> float | None:
        nonlocal passes
        passes += 1
        if passes == 3:
            done.set()
        return 0.001

    await run(work, lambda queue: queue.add(A), done)
    assert passes == 3


async def test_a_key_whose_work_failed_is_tried_again_and_others_go_on_meanwhile() -> None:
    seen: list[Key] = []
    done = asyncio.Event()

    async def work(key: Key) -> None:
        seen.append(key)
        if key == A and seen.count(A) == 1:
            raise RetryError
        if key == A:
            done.set()

    def begin(queue: WorkQueue) -> None:
        queue.add(A)
        queue.add(B)

    await run(work, begin, done)
    assert seen == [A, B, A]


async def test_of_two_delays_the_earlier_counts() -> None:
    done = asyncio.Event()

    async def work(_: Key) -> None:
        done.set()

    def begin(queue: WorkQueue) -> None:
        queue.add_after(A, 60)
        queue.add_after(A, 0.001)
        queue.add_after(A, 60)

    await run(work, begin, done)


def test_news_of_a_key_that_keeps_failing_does_not_make_it_spin() -> None:
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    passes: list[float] = []

    async def work(key: Key) -> None:
        passes.append(loop.time())
        queue.add(key)
        raise RetryError("refused")

    async def story() -> None:
        queue.add(A)
        running = asyncio.create_task(queue.run(1))
        for _ in range(3_000):
            await asyncio.sleep(0.01)
            queue.add(A)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    queue = WorkQueue("test", work)
    loop.run_until_complete(story())
    loop.close()
    assert 25 < len(passes) < 45


async def test_a_queue_ends_though_its_work_swallows_the_cancellation() -> None:
    waiting = asyncio.Event()

    async def work(key: Key) -> float:
        waiting.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return 0.0  # as a gather does whose other half fails at the same moment
        return 60.0

    queue = WorkQueue("test", work)
    queue.add(A)
    running = asyncio.create_task(queue.run(1))
    await asyncio.wait_for(waiting.wait(), 10)
    running.cancel()
    done, _ = await asyncio.wait({running}, timeout=10)
    assert done


async def test_passes_that_wait_for_nothing_leave_the_loop_its_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dspy_operator.workqueue.TURN_SECONDS", -1.0)  # each pass is as long as that
    worked = 0
    others: list[int] = []
    done = asyncio.Event()

    async def work(key: Key) -> None:
        nonlocal worked
        worked += 1
        if worked == 1_000:
            done.set()

    async def other() -> None:
        while not done.is_set():
            others.append(worked)
            await asyncio.sleep(0)
        others.append(worked)

    def begin(queue: WorkQueue) -> None:
        for number in range(1_000):
            queue.add(Key("program", "ns", str(number)))

    await asyncio.gather(run(work, begin, done), other())
    assert max(after - before for before, after in itertools.pairwise(others)) <= 4
