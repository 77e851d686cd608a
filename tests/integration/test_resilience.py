"""Providers that fail, hang, refuse or answer late, and what stands in for them: a real runtime, two stand-ins."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dspy_runtime.lm.budget import MOST_SAVED
from tests.integration.gateway import until
from tests.integration.runtime import KEY, RunningProvider, Runtime, refusal, running_provider, running_runtime
from tests.integration.test_host import Make, make
from tests.integration.test_runtime import question_model, save
from tests.integration.test_streams import listen

__all__ = ["make", "question_model", "save"]

ASKED: dict[str, Any] = {"question": "why?", "limit": 3}
LM = "openai/standin"
OTHER = "openai/other"
BREAKER = {"minimum_calls": 5, "window_seconds": 30, "open_seconds": 1}


@pytest.fixture
async def provider() -> AsyncIterator[RunningProvider]:
    async with running_provider() as running:
        yield running


@pytest.fixture
async def other(tmp_path: Path) -> AsyncIterator[RunningProvider]:
    async with running_provider() as running:
        (tmp_path / "other-key").write_text("sk-other-0123456789abcdef")
        yield running


def fallback(other: RunningProvider, tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {"model": OTHER, "api_base": other.base, "api_key_file": str(tmp_path / "other-key"), **more}


async def calls(runtime: Runtime) -> dict[tuple[str, str], int]:
    """How many tries of which model ended how, by the metrics."""
    found = {}
    for line in (await runtime.get("/metrics")).splitlines():
        if line.startswith("dspy_runtime_lm_calls_total{"):
            labels = dict(each.split("=") for each in line[line.index("{") + 1 : line.index("}")].split(","))
            found[labels["lm"].strip('"'), labels["outcome"].strip('"')] = int(float(line.split()[-1]))
    return found


async def breaker(runtime: Runtime, lm: str) -> float:
    told = f'dspy_runtime_lm_breaker{{lm="{lm}"'
    lines = (await runtime.get("/metrics")).splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(told))


@pytest.mark.parametrize("status", [500, 429, 401])
async def test_another_model_answers_when_the_first_fails(
    question_model: Path, provider: RunningProvider, other: RunningProvider, tmp_path: Path, status: int
) -> None:
    provider.provider.settings.error_share, provider.provider.settings.error_status = 1.0, status
    lm = {"fallbacks": [fallback(other, tmp_path)]}
    async with running_runtime(question_model, provider.base, tmp_path, lm=lm) as runtime:
        got, body, headers = await runtime.predict(**ASKED)
        assert (got, headers["x-dspy-outcome"], body["answer"]) == (200, "ok", "A helpful answer.")
        assert (headers["x-dspy-lm"], headers["x-dspy-flags"]) == (OTHER, "fallback")
        assert provider.provider.keys == {f"Bearer {KEY}"}
        assert other.provider.keys == {"Bearer sk-other-0123456789abcdef"}
        provider.provider.settings.error_share = 0.0
        _, _, headers = await runtime.predict(**ASKED)
        assert (headers["x-dspy-lm"], headers.get("x-dspy-flags")) == (LM, None)
        outcome = {500: "server_error", 429: "rate_limit", 401: "auth"}[status]
        assert await calls(runtime) == {(LM, outcome): 1, (LM, "ok"): 1, (OTHER, "ok"): 1}


async def test_what_a_request_itself_is_refused_for_asks_nobody_else(
    question_model: Path, provider: RunningProvider, other: RunningProvider, tmp_path: Path
) -> None:
    provider.provider.settings.error_share, provider.provider.settings.error_status = 1.0, 400
    lm = {"fallbacks": [fallback(other, tmp_path)]}
    async with running_runtime(question_model, provider.base, tmp_path, lm=lm) as runtime:
        status, _, headers = await runtime.predict(**ASKED)
        assert (status, headers["x-dspy-outcome"]) == (502, "upstream_error")
        assert other.provider.calls == 0


async def test_an_endpoint_that_fails_is_left_alone_until_one_call_finds_it_well(
    question_model: Path, provider: RunningProvider, other: RunningProvider, tmp_path: Path
) -> None:
    provider.provider.settings.error_share = 1.0
    lm = {"fallbacks": [fallback(other, tmp_path)], "circuit_breaker": BREAKER}
    async with running_runtime(question_model, provider.base, tmp_path, lm=lm) as runtime:
        for _ in range(5):
            assert (await runtime.predict(**ASKED))[0] == 200
        assert await breaker(runtime, LM) == 2
        asked = provider.provider.calls
        answers = await asyncio.gather(*(runtime.predict(**ASKED) for _ in range(50)))
        assert [status for status, _, _ in answers] == [200] * 50
        assert provider.provider.calls == asked, "nobody asked it"
        provider.provider.settings.error_share, provider.provider.settings.latency_seconds = 0.0, 0.5

        async def is_half_open() -> bool:
            return await breaker(runtime, LM) == 1

        await until(is_half_open, "one call may try", 10)
        answers = await asyncio.gather(*(runtime.predict(**ASKED) for _ in range(50)))
        assert provider.provider.calls == asked + 1, "one call tried, and 49 went elsewhere meanwhile"
        assert await breaker(runtime, LM) == 0
        assert (await runtime.predict(**ASKED))[2]["x-dspy-lm"] == LM


async def test_a_provider_that_swallows_calls_is_left_alone_as_well(
    question_model: Path, provider: RunningProvider, other: RunningProvider, tmp_path: Path
) -> None:
    """A call that has no answer at the request's deadline counts as one that failed."""
    provider.provider.settings.latency_seconds = 60
    lm = {"fallbacks": [fallback(other, tmp_path)], "circuit_breaker": {**BREAKER, "open_seconds": 60}}
    async with running_runtime(question_model, provider.base, tmp_path, lm=lm, timeout_seconds=1) as runtime:
        answers = await asyncio.gather(*(runtime.predict(**ASKED) for _ in range(5)))
        assert [headers["x-dspy-outcome"] for _, _, headers in answers] == ["timeout"] * 5
        assert (await runtime.predict(**ASKED))[2]["x-dspy-lm"] == OTHER
        assert await calls(runtime) == {(LM, "timeout"): 5, (OTHER, "ok"): 1}


async def test_with_a_timeout_of_its_own_no_request_is_lost_to_it(
    question_model: Path, provider: RunningProvider, other: RunningProvider, tmp_path: Path
) -> None:
    provider.provider.settings.latency_seconds = 60
    lm = {"fallbacks": [fallback(other, tmp_path)], "timeout_seconds": 0.3}
    async with running_runtime(question_model, provider.base, tmp_path, lm=lm) as runtime:
        answers = await asyncio.gather(*(runtime.predict(**ASKED) for _ in range(30)))
        assert [headers["x-dspy-lm"] for _, _, headers in answers] == [OTHER] * 30
        assert (await calls(runtime))[LM, "timeout"] <= 30, "what was silent once is not waited for again"


async def test_what_begins_to_stream_is_of_one_model_and_another_stands_in_before(
    question_model: Path, provider: RunningProvider, other: RunningProvider, tmp_path: Path
) -> None:
    provider.provider.settings.error_share = 1.0
    lm = {"fallbacks": [fallback(other, tmp_path)], "max_retries": 0}
    async with running_runtime(question_model, provider.base, tmp_path, lm=lm) as runtime:
        heard = await listen(runtime.url, **ASKED)
        assert heard.text("answer") == "A helpful answer."
        assert heard.events[-1][0] == "prediction"
        provider.provider.settings.error_share, provider.provider.settings.error_event = 0.0, True
        heard = await listen(runtime.url, **ASKED)
        assert heard.events[-1][0] == "prediction", "an error behind a 200 is one all the same"
        assert (await calls(runtime))[LM, "server_error"] == 2
        provider.provider.settings.error_event, provider.provider.settings.breaks_after_events = False, 3
        asked = other.provider.calls
        heard = await listen(runtime.url, **ASKED)
        assert heard.events[-1][0] != "prediction"
        assert other.provider.calls == asked, "a part of it was said"


async def test_a_provider_that_takes_no_more_at_once_sends_the_rest_elsewhere(
    question_model: Path, provider: RunningProvider, other: RunningProvider, tmp_path: Path
) -> None:
    provider.provider.settings.latency_seconds, provider.provider.settings.most_in_flight = 2.0, 3
    lm = {"fallbacks": [fallback(other, tmp_path)], "circuit_breaker": {**BREAKER, "failure_percent": 100}}
    async with running_runtime(question_model, provider.base, tmp_path, lm=lm, timeout_seconds=20) as runtime:
        for _ in range(2):
            answers = await asyncio.gather(*(runtime.predict(**ASKED) for _ in range(30)))
            assert [status for status, _, _ in answers] == [200] * 30
        assert sum(headers["x-dspy-lm"] == OTHER for _, _, headers in answers) >= 20


async def test_what_a_stand_in_refuses_is_not_what_went_wrong(
    question_model: Path, provider: RunningProvider, other: RunningProvider, tmp_path: Path
) -> None:
    provider.provider.settings.error_share, provider.provider.settings.error_status = 1.0, 429
    provider.provider.settings.error_headers = {"retry-after": "7"}
    other.provider.settings.error_share, other.provider.settings.error_status = 1.0, 400
    lm = {"fallbacks": [fallback(other, tmp_path)]}
    async with running_runtime(question_model, provider.base, tmp_path, lm=lm) as runtime:
        status, body, headers = await runtime.predict(**ASKED)
        assert (status, body["error"]["code"], headers["retry-after"]) == (429, "rate_limit", "7")
        assert other.provider.calls == 1


async def test_impatient_clients_open_no_circuit(
    question_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    provider.provider.settings.latency_seconds = 0.5
    lm = {"circuit_breaker": BREAKER}
    async with running_runtime(question_model, provider.base, tmp_path, lm=lm) as runtime:

        async def ask() -> int:
            headers = {"x-dspy-deadline-ms": "100"}
            async with runtime.session.post(f"{runtime.url}/predict", json=ASKED, headers=headers) as response:
                return response.status

        assert await asyncio.gather(*(ask() for _ in range(20))) == [504] * 20
        assert await breaker(runtime, LM) == 0
        assert (await runtime.predict(**ASKED))[0] == 200


async def test_a_program_on_threads_falls_back_too(
    make: Make, provider: RunningProvider, other: RunningProvider, tmp_path: Path
) -> None:
    provider.provider.settings.error_share = 1.0
    lm = {"fallbacks": [fallback(other, tmp_path)], "max_retries": 0}
    async with running_runtime(make("OwnLoop"), provider.base, tmp_path, lm=lm) as runtime:
        status, _, headers = await runtime.predict(question="why?")
        assert (status, headers["x-dspy-lm"], headers["x-dspy-flags"]) == (200, OTHER, "fallback")


async def test_an_outage_is_not_made_worse_by_tries(
    question_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    provider.provider.settings.error_share = 1.0
    async with running_runtime(question_model, provider.base, tmp_path, lm={"max_retries": 2}) as runtime:
        for _ in range(4):
            await asyncio.gather(*(runtime.predict(**ASKED) for _ in range(50)))
        assert 200 < provider.provider.calls <= 200 * 1.1 + MOST_SAVED


async def test_a_second_call_beside_one_that_takes_long(
    question_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    settings = provider.provider.settings
    settings.latency_seconds, settings.slow_seconds = 0.02, 20.0
    async with running_runtime(
        question_model, provider.base, tmp_path, lm={"hedge": {}}, timeout_seconds=30
    ) as runtime:
        for _ in range(60):
            await runtime.predict(**ASKED)
        settings.slow_every = 20
        began = time.monotonic()
        for _ in range(40):
            assert (await runtime.predict(**ASKED))[0] == 200
        assert time.monotonic() - began < 15, "without a second call it takes forty seconds"
        await until(lambda: provider.provider.gone >= 2, "the slow calls were cancelled", 5)
        metrics = await runtime.get("/metrics")
        assert f'dspy_runtime_lm_hedges_total{{lm="{LM}"' in metrics


async def test_a_client_says_for_how_long_it_waits(
    question_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    provider.provider.settings.latency_seconds = 20

    async def ask(runtime: Runtime, told: str) -> tuple[int, dict[str, Any]]:
        headers = {"x-dspy-deadline-ms": told}
        async with runtime.session.post(f"{runtime.url}/predict", json=ASKED, headers=headers) as response:
            return response.status, (await response.json())["error"]

    async with running_runtime(question_model, provider.base, tmp_path) as runtime:
        began = time.monotonic()
        status, error = await ask(runtime, "300")
        assert time.monotonic() - began < 5
        assert (status, error["outcome"], error["code"]) == (504, "cancelled", "deadline")
        assert "x-dspy-deadline-ms" in error["message"]
        await until(lambda: provider.provider.gone == 1, "the call ended with the request", 5)
        for unfit in ("0", "-1", "soon", "1.5", "9" * 12):
            status, error = await ask(runtime, unfit)
            assert (status, error["outcome"], error["code"]) == (400, "client_error", "invalid_deadline")
        assert provider.provider.calls == 1


async def test_a_limit_that_all_pods_share_slows_the_pod_down(
    question_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    """It finds out how many calls the provider takes at once, instead of asking in vain for each request."""
    settings = provider.provider.settings
    settings.latency_seconds, settings.most_in_flight = 0.1, 10
    async with running_runtime(question_model, provider.base, tmp_path, lm={"max_retries": 0}) as runtime:
        for _ in range(4):  # until it has found out
            await asyncio.gather(*(runtime.predict(**ASKED) for _ in range(60)))
        assert provider.provider.refused > 0
        refused = 0
        for _ in range(5):
            answers = await asyncio.gather(*(runtime.predict(**ASKED) for _ in range(60)))
            refused += sum(status == 429 for status, _, _ in answers)
        assert refused < 60, "of 300, where nothing would be learnt, 250 are"


LAST = {"answer": "Ask again later."}


async def test_a_static_answer_when_nothing_else_is_left(
    question_model: Path, provider: RunningProvider, other: RunningProvider, tmp_path: Path
) -> None:
    provider.provider.settings.error_share = other.provider.settings.error_share = 1.0
    lm = {"fallbacks": [fallback(other, tmp_path, max_retries=0)], "last_resort": LAST, "max_retries": 0}
    async with running_runtime(question_model, provider.base, tmp_path, lm=lm, timeout_seconds=1) as runtime:
        status, body, headers = await runtime.predict(**ASKED)
        assert (status, body) == (200, LAST)
        assert (headers["x-dspy-outcome"], headers["x-dspy-flags"]) == ("upstream_error", "fallback")
        assert 'outcome="upstream_error",revision=""' in await runtime.get("/metrics"), "it is counted as what it is"
        heard = await listen(runtime.url, **ASKED)
        assert heard.events == [("prediction", LAST)]
        other.provider.settings.error_share, other.provider.settings.latency_seconds = 0.0, 60
        status, body, headers = await runtime.predict(**ASKED)
        assert (status, body, headers["x-dspy-outcome"]) == (200, LAST, "timeout")
        status, body, headers = await runtime.predict(question="why?")
        assert (status, headers["x-dspy-outcome"]) == (422, "client_error"), "that is not the models' fault"


async def test_a_last_resort_that_is_no_answer_of_the_program_is_refused_at_the_start(
    question_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    lm = {"last_resort": {"answer": 3, "other": "x"}}
    told = await refusal(question_model, provider.base, tmp_path, lm=lm)
    assert told["reason"] == "LMConfigurationInvalid"
    assert all(words in told["message"] for words in ("lm.lastResort", "answer: ", "other: "))


async def test_an_error_of_a_fallbacks_settings_names_it(
    question_model: Path, provider: RunningProvider, other: RunningProvider, tmp_path: Path
) -> None:
    unfit = [{"model": "opnai/x"}, fallback(other, tmp_path, api_key_file=str(tmp_path / "none"))]
    for number, each in enumerate(unfit):
        lm = {"fallbacks": [*[fallback(other, tmp_path)] * number, each]}
        told = await refusal(question_model, provider.base, tmp_path, lm=lm)
        assert told["reason"] == "LMConfigurationInvalid"
        assert f"lm.fallbacks[{number}]" in told["message"]
