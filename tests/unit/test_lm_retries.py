"""When a call that failed is tried again, and whose place is whose meanwhile."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_runtime.admission import Admission, OverloadedError
from dspy_runtime.lm.retries import FIRST_SECONDS, LONGEST_SECONDS, wait_seconds

SECONDS = st.floats(0, 1e6)
DRAWS = st.floats(0, 1)


@given(tries=st.integers(1, 100), most=st.integers(0, 10), hint=st.none() | SECONDS, left=SECONDS, draw=DRAWS)
def test_a_wait_is_within_the_deadline_and_the_number_of_tries(
    tries: int, most: int, hint: float | None, left: float, draw: float
) -> None:
    wait = wait_seconds(tries, most, hint, left, lambda: draw)
    if tries > most:
        assert wait is None
    elif wait is not None:
        assert 0 <= wait < left
        assert wait >= hint if hint is not None else wait <= LONGEST_SECONDS


def test_waits_double_with_full_jitter_and_a_hint_is_obeyed() -> None:
    waits = [wait_seconds(tries, 9, None, 1e6, lambda: 1.0) for tries in range(1, 9)]
    assert waits == [min(FIRST_SECONDS * 2**each, LONGEST_SECONDS) for each in range(8)]
    assert wait_seconds(1, 9, None, 1e6, lambda: 0.0) == 0.0
    assert wait_seconds(1, 9, 30.0, 60.0, lambda: 0.0) == 30.0
    assert wait_seconds(1, 9, 30.0, 20.0, lambda: 0.0) is None


async def test_a_place_that_is_lent_is_anothers_and_is_waited_for() -> None:
    admission = Admission(1, 1)
    first = await admission.enter()
    await first.lend()
    second = await admission.enter()
    back = asyncio.ensure_future(first.take_back())
    await asyncio.sleep(0)
    assert (admission.running, admission.waiting, back.done()) == (1, 1, False)
    with pytest.raises(OverloadedError):
        await admission.enter()
    second.leave()
    await back
    assert (admission.running, admission.waiting) == (1, 0)
    first.leave()
    first.leave()
    assert (admission.running, admission.waiting) == (0, 0)


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
