"""When a call that failed is tried again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

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
