"""Many predictions in one request: a real runtime, and MLflow's own client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.integration.gateway import until
from tests.integration.runtime import RunningProvider, Runtime, running_provider, running_runtime
from tests.integration.test_runtime import question_model, save

__all__ = ["question_model", "save"]

ASKED: dict[str, Any] = {"question": "why?", "limit": 3}


@pytest.fixture
async def provider() -> AsyncIterator[RunningProvider]:
    async with running_provider() as running:
        yield running


async def post(runtime: Runtime, path: str, content: Any, **headers: str) -> tuple[int, Any, dict[str, str]]:
    async with runtime.session.post(runtime.url + path, json=content, headers=headers) as response:
        return response.status, await response.json(), dict(response.headers)


async def test_a_batch_has_an_answer_or_an_error_for_each_input_in_order(
    question_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    provider.provider.settings.error_when = "fail this one"
    async with running_runtime(question_model, provider.base, tmp_path, lm={"max_retries": 0}) as runtime:
        rows = [ASKED, {"question": "?"}, {**ASKED, "question": "fail this one"}, ASKED]
        status, body, headers = await post(runtime, "/predict/batch", {"inputs": rows})
        first, wrong, failed, last = body["outputs"]
        assert status == 200
        assert first == last == {"reasoning": "A helpful answer.", "answer": "A helpful answer."}
        assert (wrong["error"]["code"], failed["error"]["code"]) == ("invalid_input", "provider_error")
        assert headers["x-dspy-outcome"] == "upstream_error", "a batch is as bad as its worst row"
        _, _, alone = await runtime.predict(**ASKED)
        assert int(headers["x-dspy-tokens"]) == 2 * int(alone["x-dspy-tokens"])
        metrics = await runtime.get("/metrics")
        assert 'dspy_runtime_requests_total{outcome="ok",revision=""} 3.0' in metrics, "each row is counted, once"
        status, body, _ = await post(runtime, "/predict/batch", {"inputs": []})
        assert (status, body["error"]["fields"][0]["field"]) == (422, "inputs")


async def test_batches_leave_half_of_the_places_to_others(
    question_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    provider.provider.settings.latency_seconds = 0.3
    async with running_runtime(question_model, provider.base, tmp_path, concurrency=4, queue=0) as runtime:
        batch = asyncio.ensure_future(post(runtime, "/predict/batch", {"inputs": [ASKED] * 20}))
        await until(lambda: provider.provider.in_flight == 2, "it has its half", 10)
        answers = await asyncio.gather(*(runtime.predict(**ASKED) for _ in range(2)))
        assert [status for status, _, _ in answers] == [200, 200]
        status, body, _ = await batch
        assert (status, {"error" in each for each in body["outputs"]}) == (200, {False})


async def test_a_batch_has_one_deadline_and_a_client_that_leaves_ends_all_of_it(
    question_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    provider.provider.settings.latency_seconds = 0.4
    async with running_runtime(question_model, provider.base, tmp_path, concurrency=2, timeout_seconds=1) as runtime:
        status, body, headers = await post(runtime, "/predict/batch", {"inputs": [ASKED] * 6})
        codes = [each["error"]["code"] if "error" in each else "ok" for each in body["outputs"]]
        assert (status, codes) == (200, ["ok", "ok", "timeout", "overloaded", "overloaded", "overloaded"])
        assert headers["x-dspy-outcome"] == "timeout"
        provider.provider.settings.latency_seconds = 30
        asked = provider.provider.calls
        timeout = aiohttp.ClientTimeout(total=0.5)
        with pytest.raises(asyncio.TimeoutError):
            await runtime.session.post(f"{runtime.url}/predict/batch", json={"inputs": [ASKED] * 3}, timeout=timeout)

        async def all_ended() -> bool:
            return 'outcome="cancelled",revision=""} 3.0' in await runtime.get("/metrics")

        await until(all_ended, "all of it has ended", 5)
        assert provider.provider.calls == asked + 1, "only what had a place asked"


async def test_mlflows_client_is_answered(question_model: Path, provider: RunningProvider, tmp_path: Path) -> None:
    import pandas as pd
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    async with running_runtime(question_model, provider.base, tmp_path) as runtime:
        host, _, port = runtime.url.removeprefix("http://").partition(":")
        client = ScoringServerClient(host, int(port))
        await asyncio.to_thread(client.wait_server_ready, 10)
        assert (await asyncio.to_thread(client.get_version)).startswith("3.")
        answer = {"reasoning": "A helpful answer.", "answer": "A helpful answer."}
        for data, said in (
            (pd.DataFrame([ASKED]), answer),
            (pd.DataFrame([ASKED, ASKED]), [answer, answer]),
            ([ASKED], answer),
        ):
            told = await asyncio.to_thread(client.invoke, data)
            assert told["predictions"] == said, data
        status, body, _ = await post(runtime, "/invocations", {"dataframe_records": [{"question": "why?"}]})
        assert (status, body["error"]["fields"][0]["field"]) == (422, "limit")
