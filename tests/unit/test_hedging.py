"""A second call beside one that takes unusually long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from dspy_runtime.lm.allowance import RESERVE, Allowance
from dspy_runtime.lm.hedging import EVERY, LEAST_ANSWERS, LONGEST_AGO_SECONDS, Hedge, UsualSeconds
from dspy_runtime.settings import HedgeSettings


def test_what_is_usual_is_known_after_enough_answers_and_only_of_late() -> None:
    usual = UsualSeconds(90)
    for number in range(LEAST_ANSWERS - 1):
        usual.take(number / 100, 0)
    assert usual.after is None
    usual.take(0.5, 0)
    assert usual.after == pytest.approx(0.45, abs=0.02)
    for _ in range(EVERY):
        usual.take(9.0, LONGEST_AGO_SECONDS + 1)
    assert usual.after is None, "the old ones are forgotten, and the new ones too few"


def test_an_allowance_is_a_share_of_what_was_asked_for_beyond_the_reserve() -> None:
    allowance = Allowance(5)
    assert sum(allowance.spend() for _ in range(100)) == RESERVE
    for _ in range(1_000):
        allowance.earn()
    assert sum(allowance.spend() for _ in range(100)) == RESERVE, "no more is saved"
    spent = 0
    for _ in range(1_000):
        allowance.earn()
        spent += allowance.spend()
    assert spent == 50


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
    hedge = Hedge(HedgeSettings(), lambda: hedges.append(None))
    await known(hedge)
    calls = Calls(never, quick)
    assert await asyncio.wait_for(hedge.first(calls), 5) == "quick"
    assert (calls.made, calls.cancelled, len(hedges)) == (2, 1, 1)


async def test_a_call_that_fails_beside_one_that_does_not_is_forgotten() -> None:
    hedge = Hedge(HedgeSettings(), lambda: None)
    await known(hedge)

    async def late() -> str:
        await asyncio.sleep(0.05)  # until the second has failed
        return "late"

    assert await hedge.first(Calls(late, fails)) == "late"
    with pytest.raises(ValueError, match="no"):
        await hedge.first(Calls(fails))


async def test_who_asks_for_too_much_gets_one_call_each() -> None:
    hedge = Hedge(HedgeSettings(max_extra_percent=0), lambda: None)
    await known(hedge)
    for _ in range(int(RESERVE)):
        await asyncio.wait_for(hedge.first(Calls(never, quick)), 5)
    calls = Calls(never, quick)
    waiting = asyncio.ensure_future(hedge.first(calls))
    await asyncio.wait({waiting}, timeout=0.05)
    assert (calls.made, waiting.done()) == (1, False)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert calls.cancelled == 1, "a request that ends takes its calls with it"
