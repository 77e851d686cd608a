"""A second call beside one that takes unusually long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from dspy_runtime.lm.budget import MOST_SAVED, Budget
from dspy_runtime.lm.hedging import EVERY, LEAST_ANSWERS, LONGEST_AGO_SECONDS, Hedge, LatencyWindow
from dspy_runtime.settings import HedgeSettings


def test_what_is_usual_is_known_after_enough_answers_and_only_of_late() -> None:
    window = LatencyWindow(90)
    for number in range(LEAST_ANSWERS - 1):
        window.take(number / 100, 0)
    assert window.after(0) is None
    window.take(0.5, 0)
    assert window.after(0) == pytest.approx(0.45, abs=0.02)
    assert window.after(LONGEST_AGO_SECONDS + 1) is None, "nothing is known of late"
    for _ in range(EVERY):
        window.take(9.0, LONGEST_AGO_SECONDS + 1)
    assert window.after(LONGEST_AGO_SECONDS + 1) is None, "the old ones are forgotten, and the new ones too few"


def test_a_budget_is_a_share_of_what_was_asked_for_beyond_what_was_saved() -> None:
    budget = Budget(5, MOST_SAVED)
    assert sum(budget.spend() for _ in range(100)) == MOST_SAVED
    for _ in range(1_000):
        budget.earn()
    assert sum(budget.spend() for _ in range(100)) == MOST_SAVED, "no more is saved"
    spent = 0
    for _ in range(1_000):
        budget.earn()
        spent += budget.spend()
    assert spent == 50


def always() -> bool:
    return True


async def quick() -> str:
    return "quick"


async def known(hedge: Hedge) -> None:
    for _ in range(LEAST_ANSWERS):
        await hedge.first(quick)


class Calls:
    """Calls of an endpoint: what becomes of the first, the second."""

    def __init__(self, *acts: Callable[[], Awaitable[str]]) -> None:
        self.acts = list(acts)
        self.made = self.cancelled = 0

    async def __call__(self) -> str:
        self.made += 1
        try:
            return await self.acts.pop(0)()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


async def never() -> str:
    await asyncio.Event().wait()
    return "never"


async def fails() -> str:
    raise ValueError("no")


async def test_whichever_answers_first_is_taken_and_the_other_cancelled() -> None:
    hedges: list[None] = []
    hedge = Hedge(HedgeSettings(), lambda: hedges.append(None), always)
    await known(hedge)
    calls = Calls(never, quick)
    assert await asyncio.wait_for(hedge.first(calls), 5) == "quick"
    assert (calls.made, calls.cancelled, len(hedges)) == (2, 1, 1)


async def test_a_call_that_fails_beside_one_that_does_not_is_forgotten() -> None:
    hedge = Hedge(HedgeSettings(), lambda: None, always)
    await known(hedge)

    async def late() -> str:
        await asyncio.sleep(0.05)  # until the second has failed
        return "late"

    assert await hedge.first(Calls(late, fails)) == "late"
    with pytest.raises(ValueError, match="no"):
        await hedge.first(Calls(fails))


@pytest.mark.parametrize(("percent", "allowed"), [(0, True), (5, False)])
async def test_no_second_call_beyond_the_budget_or_where_none_is_allowed(percent: float, allowed: bool) -> None:
    hedge = Hedge(HedgeSettings(max_extra_percent=percent), lambda: None, lambda: allowed)
    await known(hedge)
    calls = Calls(never, quick)
    waiting = asyncio.ensure_future(hedge.first(calls))
    await asyncio.wait({waiting}, timeout=0.05)
    assert (calls.made, waiting.done()) == (1, False)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert calls.cancelled == 1, "a request that ends takes its calls with it"
