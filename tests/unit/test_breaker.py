"""When an endpoint that fails is not asked for a while."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_runtime.lm.breaker import Breaker, BreakerState
from dspy_runtime.settings import BreakerSettings

SETTINGS = BreakerSettings(failure_percent=50, minimum_calls=4, window_seconds=10, open_seconds=5)


def ended(breaker: Breaker, now: float, *failed: bool) -> None:
    tickets = [breaker.admit(now) for _ in failed]
    for ticket, each in zip(tickets, failed, strict=True):
        assert ticket is not None
        breaker.record(ticket, each, now)


def test_it_opens_at_the_rate_and_not_before_there_are_enough_calls() -> None:
    breaker = Breaker(SETTINGS)
    ended(breaker, 0, True, True, True)
    assert breaker.state(0) is BreakerState.CLOSED
    ended(breaker, 1, False, False, True)
    assert breaker.state(1) is BreakerState.OPEN, "four of six failed"
    assert breaker.admit(5.9) is None


def test_failures_out_of_the_window_are_forgotten() -> None:
    breaker = Breaker(SETTINGS)
    ended(breaker, 0, True, True, True)
    ended(breaker, 11, False, False, False, True)
    assert breaker.state(11) is BreakerState.CLOSED, "one of four failed"


def test_one_call_at_a_time_may_try_and_closes_it_or_opens_it_again() -> None:
    breaker = Breaker(SETTINGS)
    ended(breaker, 0, True, True, True, True)
    probe = breaker.admit(5)
    assert probe is not None
    assert breaker.state(5) is BreakerState.HALF_OPEN
    assert [breaker.admit(5) for _ in range(50)] == [None] * 50
    breaker.record(probe, True, 6)
    assert breaker.admit(10.9) is None, "open for five seconds from the probe's end on"
    probe = breaker.admit(11)
    assert probe is not None
    breaker.record(probe, False, 12)
    assert breaker.state(12) is BreakerState.CLOSED
    ended(breaker, 12, True, True, True)
    assert breaker.state(12) is BreakerState.CLOSED, "it begins anew"


def test_a_probe_whose_end_nobody_knows_leaves_its_place_to_another() -> None:
    breaker = Breaker(SETTINGS)
    ended(breaker, 0, True, True, True, True)
    probe = breaker.admit(5)
    assert probe is not None
    breaker.forget(probe)
    assert breaker.admit(5) is not None


@pytest.mark.parametrize("failed", [True, False])
def test_calls_from_before_it_opened_neither_close_it_nor_open_it_again(failed: bool) -> None:
    breaker = Breaker(SETTINGS)
    old = breaker.admit(0)
    assert old is not None
    ended(breaker, 0, True, True, True, True)
    probe = breaker.admit(5)
    breaker.record(old, failed, 5.5)
    assert breaker.admit(5.5) is None, "the probe is still under way"
    assert probe is not None
    breaker.record(probe, False, 6)
    breaker.record(old, failed, 6)
    assert breaker.state(6) is BreakerState.CLOSED


@given(st.lists(st.tuples(st.floats(0, 3), st.sampled_from(["admit", "good", "bad", "lost"]), st.integers(0, 9))))
def test_while_it_is_not_closed_no_two_calls_are_under_way_that_it_admitted(
    acts: list[tuple[float, str, int]],
) -> None:
    breaker, now = Breaker(SETTINGS), 0.0
    under_way: list[tuple[int, float]] = []
    """Tickets, and until when each keeps others from trying."""
    for seconds, act, which in acts:
        now += seconds
        if act == "admit":
            state = breaker.state(now)
            ticket = breaker.admit(now)
            probing = state is BreakerState.HALF_OPEN and any(now < until for _, until in under_way)
            assert (ticket is None) == (state is BreakerState.OPEN or probing)
            if ticket is not None:
                is_probe = state is BreakerState.HALF_OPEN
                under_way.append((ticket, now + SETTINGS.window_seconds if is_probe else 0.0))
        elif under_way:
            ticket, _ = under_way.pop(which % len(under_way))
            if act == "lost":
                breaker.forget(ticket)
            else:
                breaker.record(ticket, act == "bad", now)
        assert sum(now < until for _, until in under_way) <= 1


def test_a_probe_that_never_ends_keeps_others_away_for_a_window_only() -> None:
    breaker = Breaker(SETTINGS)
    ended(breaker, 0, True, True, True, True)
    assert breaker.admit(5) is not None
    assert breaker.admit(14.9) is None
    assert breaker.admit(15) is not None
