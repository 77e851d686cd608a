"""Predictions over WebSockets: what is told, whoever leaves, and what a drain lets end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.integration.gateway import Upstream, free_port, inputs_of, running_gateway, until
from tests.integration.runtime import RunningProvider, Runtime, running_provider, running_runtime
from tests.integration.test_runtime import question_model, save
from tests.integration.test_streams import ANSWER, told_model

__all__ = ["question_model", "save", "told_model"]

UID = "0b5c6d7e-0000-4000-8000-000000000004"


@pytest.fixture
async def provider() -> AsyncIterator[RunningProvider]:
    async with running_provider() as running:
        running.provider.settings.answers = {"answer": ANSWER}
        yield running


def connected(runtime: Runtime, **headers: str) -> Any:
    return runtime.session.ws_connect(f"{runtime.url}/predict/ws", headers=headers)


async def asked(socket: aiohttp.ClientWebSocketResponse, content: Any) -> list[dict[str, Any]]:
    """What is sent until the end of a prediction."""
    await socket.send_str(content if isinstance(content, str) else json.dumps(content))
    told: list[dict[str, Any]] = []
    while not told or told[-1]["event"] == "part":
        told.append(await socket.receive_json(timeout=20))
    return told


async def test_predictions_one_after_the_other_are_told_as_they_come(
    told_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    async with running_runtime(told_model, provider.base, tmp_path) as runtime, connected(runtime) as socket:
        for _ in range(3):
            *parts, last = await asked(socket, {"question": "?"})
            words = [each["data"]["text"] for each in parts if each["data"]["field"] == "answer"]
            assert "".join(words).strip() == ANSWER
            assert (last["event"], last["data"]["answer"]) == ("prediction", ANSWER)
        await socket.send_str('{"question": "first"}')
        last = (await asked(socket, {"question": "second"}))[-1]
        assert last["event"] == "prediction", "two that are sent at once are answered in turn"
        page = await runtime.get("/metrics")
        assert 'dspy_runtime_requests_total{outcome="ok"' in page


@pytest.mark.parametrize(
    ("content", "code"), [("{", "invalid_input"), ({"question": 5}, "invalid_input"), ("[]", "invalid_input")]
)
async def test_what_is_no_input_is_refused_and_the_connection_goes_on(
    told_model: Path, provider: RunningProvider, tmp_path: Path, content: Any, code: str
) -> None:
    async with running_runtime(told_model, provider.base, tmp_path) as runtime, connected(runtime) as socket:
        (told,) = await asked(socket, content)
        assert (told["event"], told["data"]["error"]["code"]) == ("error", code)
        assert (await asked(socket, {"question": "?"}))[-1]["event"] == "prediction"


async def test_headers_of_the_handshake_hold_for_every_prediction(
    told_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    provider.provider.settings.latency_seconds = 5.0
    async with running_runtime(told_model, provider.base, tmp_path) as runtime:
        async with connected(runtime, **{"x-dspy-deadline-ms": "200"}) as socket:
            (told,) = await asked(socket, {"question": "?"})
            assert told["data"]["error"]["code"] == "deadline"
        async with connected(runtime, **{"x-dspy-deadline-ms": "soon"}) as socket:
            (told,) = await asked(socket, {"question": "?"})
            assert told["data"]["error"]["code"] == "invalid_deadline"


async def test_neither_pages_of_other_sites_nor_inputs_without_end_are_taken(
    told_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    provider.provider.settings.latency_seconds = 2.0
    async with running_runtime(told_model, provider.base, tmp_path) as runtime:
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await connected(runtime, origin="https://elsewhere.example")
        host = runtime.url.removeprefix("http://")
        async with connected(runtime, origin=f"http://{host}") as socket:
            for _ in range(5):
                await socket.send_json({"question": "?"})
            closed = await socket.receive(timeout=20)
            assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, 1008)
        await until(lambda: provider.provider.in_flight == 0, "nobody asks any more", 10)


async def test_a_client_that_leaves_ends_its_calls(told_model: Path, provider: RunningProvider, tmp_path: Path) -> None:
    provider.provider.settings.latency_seconds = 30.0
    async with running_runtime(told_model, provider.base, tmp_path) as runtime:
        async with connected(runtime) as socket:
            await socket.send_json({"question": "?"})
            await until(lambda: provider.provider.in_flight == 1, "it is asked", 10)
        await until(lambda: provider.provider.in_flight == 0, "nobody asks any more", 10)

        async def is_counted() -> bool:
            return 'dspy_runtime_requests_total{outcome="cancelled"' in await runtime.get("/metrics")

        await until(is_counted, "it is counted", 10)


async def test_a_drain_lets_a_prediction_end_and_closes_what_is_idle(
    told_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    async with (
        running_runtime(told_model, provider.base, tmp_path) as runtime,
        connected(runtime) as idle,
        connected(runtime) as busy,
    ):
        await asked(idle, {"question": "?"})
        provider.provider.settings.latency_seconds = 1.0
        await busy.send_json({"question": "?"})
        await until(lambda: provider.provider.in_flight == 1, "it is asked", 10)
        runtime.process.terminate()
        told: list[dict[str, Any]] = []
        while not told or told[-1]["event"] == "part":
            told.append(await busy.receive_json(timeout=20))
        assert told[-1]["event"] == "prediction"
        for socket in (idle, busy):
            closed = await socket.receive(timeout=20)
            assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, 1012)
        assert await asyncio.wait_for(runtime.process.wait(), 20) == 0


async def test_through_the_gateway_a_connection_outlasts_the_time_of_one_prediction(
    told_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    folders = [tmp_path / name for name in ("gateway", "runtime")]
    for folder in folders:
        folder.mkdir()
    async with running_runtime(told_model, provider.base, folders[1]) as runtime:
        upstream = Upstream("only", port=int(runtime.url.rpartition(":")[2]))
        inputs = inputs_of(UID, 1, {"only": 10_000}, {"only": upstream}, free_port())
        inputs = inputs.with_routes(replace(inputs.routes[UID], serial=2, timeout_seconds=1))
        async with (
            running_gateway(folders[0], inputs) as gateway,
            runtime.session.ws_connect(gateway.url(UID, "/predict/ws")) as socket,
        ):
            assert (await asked(socket, {"question": "?"}))[-1]["event"] == "prediction"
            await asyncio.sleep(4)  # longer than a request may take
            assert (await asked(socket, {"question": "?"}))[-1]["event"] == "prediction"
            assert "predict" not in str((await gateway.counted(UID)).keys()), "none of it is counted as a draw"
