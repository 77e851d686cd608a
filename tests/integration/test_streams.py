"""Answers that are read as they come: parts, then the answer or its error, and an outcome that a gateway learns."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests.integration.gateway import Upstream, free_port, inputs_of, running_gateway, until
from tests.integration.runtime import RunningProvider, running_provider, running_runtime
from tests.integration.test_host import Make, make
from tests.integration.test_runtime import Save, save

__all__ = ["make", "save"]

ANSWER = "A long answer, said word by word."
ACCEPT = {"accept": "text/event-stream"}


@dataclass
class Heard:
    """An answer as its client reads it."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def text(self, name: str) -> str:
        """What the parts of a field say together."""
        return "".join(
            content["text"] for event, content in self.events if event == "part" and content["field"] == name
        )


async def listen(url: str, **fields: Any) -> Heard:
    """Asks for an answer as it comes, and reads it to its end."""
    heard = Heard()
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/predict", json=fields, headers=ACCEPT) as response,
    ):
        heard.status, heard.headers = response.status, dict(response.headers)
        if "event-stream" not in response.content_type:
            heard.events.append(("json", await response.json()))
            return heard
        async for event in events(response):
            heard.events.append(event)
    return heard


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Server-sent events with JSON in them, as they come."""
    name = ""
    async for line in response.content:
        key, _, value = line.decode().rstrip("\n").partition(": ")
        if key == "event":
            name = value
        elif key == "data":
            yield name, json.loads(value)


@pytest.fixture
async def provider() -> AsyncIterator[RunningProvider]:
    async with running_provider() as running:
        running.provider.settings.answers = {"answer": ANSWER}
        yield running


@pytest.fixture(scope="module")
def told_model(save: Save) -> Path:
    import dspy

    return save(dspy.ChainOfThought("question -> answer"))


async def test_text_fields_are_told_as_they_come_and_the_whole_answer_after_them(
    told_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    async with running_runtime(told_model, provider.base, tmp_path) as runtime:
        heard = await listen(runtime.url, question="?")
        whole = (await runtime.predict(question="?"))[1]
        metrics = await runtime.get("/metrics")
    assert heard.text("answer").strip() == ANSWER
    assert heard.text("reasoning").strip() == "A helpful answer."
    assert len([name for name, _ in heard.events if name == "part"]) > 2
    assert heard.events[-1] == ("prediction", whole)
    assert heard.headers["x-dspy-request-id"]
    assert 'dspy_runtime_requests_total{outcome="ok",revision=""} 2.0' in metrics


async def test_the_first_part_comes_before_the_model_has_ended(
    told_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    provider.provider.settings.event_seconds = 0.05
    async with (
        running_runtime(told_model, provider.base, tmp_path) as runtime,
        runtime.session.post(f"{runtime.url}/predict", json={"question": "?"}, headers=ACCEPT) as response,
    ):
        reading = events(response)
        assert (await anext(reading))[0] == "part"
        assert 'outcome="ok"' not in await runtime.get("/metrics"), "the request is not over"
        assert 'requests_in_flight{revision=""} 1.0' in await runtime.get("/metrics")
        assert [name async for name, _ in reading][-1] == "prediction"


GIVEN = {"output": {"type": "object", "properties": {"answer": {"type": "string"}}}}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Coroutine", True),
        ("InThread", True),
        ("TwiceAtOnce", True),
        ("OwnLoop", False),
        ("OwnLoopAndThread", False),
        ("OwnThreads", False),
        ("InExecutor", False),
        ("SyncInAsync", False),
        ("Best", False),
        ("InParallel", False),
        ("OwnAdapter", False),
        ("Json", False),
    ],
)
async def test_what_is_asked_on_the_way_of_the_request_is_told_and_all_else_comes_with_the_answer(
    make: Make, provider: RunningProvider, tmp_path: Path, name: str, told: bool
) -> None:
    provider.provider.settings.answers = {"answer": " ".join(f"w{n}" for n in range(300)), "reasoning": "a secret"}
    async with running_runtime(make(name), provider.base, tmp_path, given_schema=GIVEN) as runtime:
        heard = await asyncio.gather(*(listen(runtime.url, question=f"{each}") for each in range(3)))
        page = await runtime.get("/metrics")
        log = runtime.log.read_text()
    for each in heard:
        assert (each.status, each.events[-1][0]) == (200, "prediction"), log
        assert each.text("answer").strip() == (provider.provider.settings.answers["answer"] if told else "")
        assert "secret" not in json.dumps(each.events)
    assert 'requests_in_flight{revision=""} 0.0' in page
    assert 'threads_abandoned{revision=""} 0.0' in page


@pytest.mark.parametrize("name", ["Coroutine", "InThread"])
async def test_a_client_that_does_not_read_costs_no_place_beyond_the_deadline_and_is_told_the_end_when_it_reads(
    make: Make, provider: RunningProvider, tmp_path: Path, name: str
) -> None:
    provider.provider.settings.answers = {"answer": "words and words " * 400_000}
    settings = {"given_schema": GIVEN, "timeout_seconds": 3, "concurrency": 1, "queue": 0}
    async with running_runtime(make(name), provider.base, tmp_path, **settings) as runtime:
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", urlsplit(runtime.url).port))
            slow.sendall(REQUEST)

            async def is_over() -> bool:
                page = await runtime.get("/metrics")
                free = 'requests_in_flight{revision=""} 0.0' in page and 'threads_abandoned{revision=""} 0.0' in page
                return free and 'outcome="timeout"' in page

            await until(is_over, "its place and its thread are free")
            provider.provider.settings.answers = {"answer": ANSWER}
            assert (await listen(runtime.url, question="?")).events[-1][0] == "prediction"
            slow.settimeout(10)
            end = await asyncio.to_thread(_read_to, slow, b"x-dspy-outcome: timeout\r\n\r\n")
    assert b'"outcome":"timeout"' in end


async def test_a_program_may_stream_to_itself(make: Make, provider: RunningProvider, tmp_path: Path) -> None:
    async with running_runtime(make("StreamsItself"), provider.base, tmp_path) as runtime:
        whole = (await runtime.predict(question="?"))[1]
        heard = await listen(runtime.url, question="?")
    assert whole["pieces"] > 2
    assert heard.events[-1] == ("prediction", whole)


async def test_a_call_is_tried_again_until_it_has_said_something(
    told_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    # Three tries beside the 24 calls, as a rule; the budget has 12, and more than those are one run in 100,000.
    provider.provider.settings.error_share = 0.1
    provider.provider.settings.error_status = 503
    async with running_runtime(told_model, provider.base, tmp_path, lm={"max_retries": 12}) as runtime:
        heard = await asyncio.gather(*(listen(runtime.url, question="?") for _ in range(24)))
    assert {each.status for each in heard} == {200}


async def test_streams_take_turns_with_other_requests(
    told_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    provider.provider.settings.answers = {"answer": " ".join(f"w{n}" for n in range(200))}
    async with running_runtime(told_model, provider.base, tmp_path) as runtime:
        heard = await asyncio.gather(*(listen(runtime.url, question="?") for _ in range(100)))
        log = runtime.log.read_text()
    assert {each.events[-1][0] for each in heard} == {"prediction"}
    assert "blocks the event loop" not in log


async def test_a_program_that_goes_on_after_its_deadline_is_told_as_a_timeout(
    make: Make, provider: RunningProvider, tmp_path: Path
) -> None:
    settings = {"given_schema": GIVEN, "timeout_seconds": 1}
    async with running_runtime(make("SaysAndGoesOn"), provider.base, tmp_path, **settings) as runtime:
        heard = await listen(runtime.url, question="on")
    assert heard.text("answer").strip() == ANSWER
    assert (heard.events[-1][0], heard.events[-1][1]["error"]["outcome"]) == ("error", "timeout")


async def test_a_client_of_http_1_0_gets_the_answer_as_a_whole(
    told_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    async with running_runtime(told_model, provider.base, tmp_path) as runtime:
        with socket.create_connection(("127.0.0.1", urlsplit(runtime.url).port or 0)) as old:
            old.sendall(REQUEST.replace(b"HTTP/1.1", b"HTTP/1.0"))
            answer = await asyncio.to_thread(_read_to, old, b"}")
    assert b"content-type: application/json" in answer
    assert b"transfer-encoding" not in answer


REQUEST = (
    f'POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 16\r\naccept: {ACCEPT["accept"]}\r\n\r\n{{"question":"?"}}'
).encode()


def _read_to(connection: socket.socket, end: bytes) -> bytes:
    """What comes over a connection, to these bytes; its last part if it is much."""
    found = b""
    while not found.endswith(end):
        more = connection.recv(1 << 20)
        assert more, f"cut off after {found[-200:]!r}"
        found = (found + more)[-100_000:]
    return found


async def test_what_is_wrong_before_the_first_part_is_an_ordinary_error(
    told_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    async with running_runtime(told_model, provider.base, tmp_path) as runtime:
        wrong = await listen(runtime.url, query="?")
        provider.provider.settings.error_share = 1.0
        failed = await listen(runtime.url, question="?")
    assert (wrong.status, wrong.headers["x-dspy-outcome"]) == (422, "client_error")
    assert (failed.status, failed.headers["x-dspy-outcome"]) == (502, "upstream_error")


async def test_a_failure_after_the_first_part_is_told_counted_and_logged_once(
    told_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    provider.provider.settings.breaks_after_events = 12
    async with running_runtime(told_model, provider.base, tmp_path) as runtime:
        heard = await listen(runtime.url, question="?")
        with socket.create_connection(("127.0.0.1", urlsplit(runtime.url).port or 0)) as connection:
            connection.sendall(REQUEST)
            raw = await asyncio.to_thread(_read_to, connection, b"upstream_error\r\n\r\n")
        metrics = await runtime.get("/metrics")
        log = runtime.log.read_text()
    name, content = heard.events[-1]
    assert (heard.status, name, content["error"]["outcome"]) == (200, "error", "upstream_error")
    assert "x-dspy-outcome" not in heard.headers
    assert raw.endswith(b"\r\n0\r\nx-dspy-outcome: upstream_error\r\n\r\n")
    assert 'dspy_runtime_requests_total{outcome="upstream_error",revision=""} 2.0' in metrics
    assert log.count("A request failed") == 2


async def test_a_client_that_leaves_while_it_reads_ends_the_call_and_is_counted(
    told_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    provider.provider.settings.event_seconds = 0.2
    async with running_runtime(told_model, provider.base, tmp_path, concurrency=1) as runtime:
        async with runtime.session.post(f"{runtime.url}/predict", json={"question": "?"}, headers=ACCEPT) as response:
            await anext(events(response))
            response.close()

        async def is_counted() -> bool:
            page = await runtime.get("/metrics")
            return 'requests_in_flight{revision=""} 0.0' in page and 'outcome="cancelled"' in page

        await until(is_counted, "the place is free and the request is cancelled")
        await until(lambda: provider.provider.gone == 1, "the provider's stream has ended")


async def test_a_deadline_ends_an_answer_that_has_begun(
    told_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    provider.provider.settings.event_seconds = 0.1
    async with running_runtime(told_model, provider.base, tmp_path, timeout_seconds=1) as runtime:
        heard = await listen(runtime.url, question="?")
    assert (heard.events[-1][0], heard.events[-1][1]["error"]["outcome"]) == ("error", "timeout")


async def test_the_gateway_counts_an_outcome_that_comes_after_the_first_byte(
    told_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    async with running_runtime(told_model, provider.base, tmp_path) as runtime:
        port = urlsplit(runtime.url).port
        assert port is not None
        upstreams = {"told": Upstream("told", port=port)}
        async with running_gateway(
            tmp_path, inputs_of("uid-1", 1, {"told": 10_000}, upstreams, free_port())
        ) as gateway:
            url = gateway.url("uid-1", "")
            good = await listen(url, question="?")
            provider.provider.settings.breaks_after_events = 12
            bad = await listen(url, question="?")

            async def are_counted() -> bool:
                counts = (await gateway.counted("uid-1"))["told"]
                return counts.outcomes == {"ok": 1, "upstream_error": 1} and counts.tokens > 0

            await until(are_counted, "one good and one failed answer are counted, and what they cost")
    assert [name for name, _ in good.events][-1] == "prediction"
    assert (bad.status, bad.events[-1][0]) == (200, "error")
    assert good.text("answer").strip() == ANSWER
