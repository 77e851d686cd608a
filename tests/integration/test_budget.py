"""What language models may cost in a day: one pod's count, that of several over a real Redis, and what follows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.gateway import until
from tests.integration.redis import running_redis
from tests.integration.runtime import RunningProvider, Runtime, refusal, running_provider, running_runtime
from tests.integration.test_runtime import question_model, save

__all__ = ["question_model", "save"]

ASKED: dict[str, Any] = {"question": "why?", "limit": 3}
PRICE = {"input": 1_000_000, "output": 1_000_000}
"""A dollar a token: the first answer costs more than any budget here."""


@pytest.fixture
async def provider() -> AsyncIterator[RunningProvider]:
    async with running_provider() as running:
        yield running


async def is_spent(runtime: Runtime) -> bool:
    lines = (await runtime.get("/metrics")).splitlines()
    usd, spent = (
        next(float(line.split()[-1]) for line in lines if line.startswith(f"dspy_runtime_budget_{name}{{"))
        for name in ("usd", "spent_usd")
    )
    return spent >= usd


async def test_a_budget_that_is_spent_ends_requests_and_not_what_costs_nothing(
    question_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    settings = {"budget": {"usd_per_day": 5}, "cache": {}, "lm": {"price": PRICE}}
    async with running_runtime(question_model, provider.base, tmp_path, **settings) as runtime:
        assert (await runtime.predict(**ASKED))[0] == 200
        await until(lambda: is_spent(runtime), "it is counted", 10)
        status, body, headers = await runtime.predict(**{**ASKED, "limit": 4})
        assert (status, body["error"]["code"], headers["x-dspy-outcome"]) == (429, "budget", "overloaded")
        assert 0 < int(headers["retry-after"]) <= 86_400
        assert provider.provider.calls == 1
        assert (await runtime.predict(**ASKED))[2]["x-dspy-cache"] == "hit"


async def test_models_that_stand_in_answer_when_the_budget_is_spent(
    question_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    async with running_provider() as other:
        cheap = {"model": "openai/other", "api_base": other.base, "price": {"input": 0, "output": 0}}
        settings = {
            "budget": {"usd_per_day": 5, "on_exceeded": "Fallback"},
            "lm": {"price": PRICE, "fallbacks": [cheap]},
        }
        async with running_runtime(question_model, provider.base, tmp_path, **settings) as runtime:
            assert (await runtime.predict(**ASKED))[2]["x-dspy-lm"] == "openai/standin"
            await until(lambda: is_spent(runtime), "it is counted", 10)
            status, _, headers = await runtime.predict(**ASKED)
            assert (status, headers["x-dspy-lm"], headers["x-dspy-outcome"]) == (200, "openai/other", "ok")
            other.provider.settings.error_share = 1.0
            assert (await runtime.predict(**ASKED))[0] == 502, "and nobody stands in for those"
            assert provider.provider.calls == 1


async def test_pods_share_a_budget_and_one_that_starts_knows_what_is_spent(
    question_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    async with running_redis(tmp_path) as redis:
        shared = {
            "budget": {"usd_per_day": 5},
            "redis": {"url": redis.url},
            "program": "default/qa",
            "lm": {"price": PRICE},
        }
        folders = [tmp_path / name for name in "ab"]
        for folder in folders:
            folder.mkdir()
        async with (
            running_runtime(question_model, provider.base, folders[0], **shared) as one,
            running_runtime(question_model, provider.base, folders[1], **shared) as two,
        ):
            assert (await one.predict(**ASKED))[0] == 200
            await until(lambda: is_spent(two), "the other pod hears of it", 10)
            assert (await two.predict(**ASKED))[0] == 429
            (key,) = await redis.client.keys()
            assert str(key).startswith("{dspy:default/qa}:spent:")
            told = [int(each) for each in await redis.client.hvals(str(key))]
            assert len(told) == 2
            assert sum(told) > 5e9, "billionths of a dollar, by pod"
            redis.freeze()
            assert (await two.predict(**ASKED))[0] == 429, "what a pod knows it goes on knowing"
            redis.thaw()
        async with running_runtime(question_model, provider.base, folders[0], **shared) as later:
            await until(lambda: is_spent(later), "it has asked", 10)
            assert (await later.predict(**ASKED))[0] == 429


async def test_a_budget_needs_the_price_of_every_model(
    question_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    unpriced = {"model": "openai/other", "api_base": provider.base}
    lm = {"price": PRICE, "fallbacks": [unpriced]}
    said = await refusal(question_model, provider.base, tmp_path, budget={"usd_per_day": 5}, lm=lm)
    assert said["reason"] == "LMConfigurationInvalid"
    assert "lm.fallbacks[0].price" in said["message"]
