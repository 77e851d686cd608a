"""A program serves as it ran for its author: loops and threads of its own, modules that try again, models of its own,
clients that leave, providers that say wait."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import time
import warnings
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from dspy_operator.domain.snapshot import Description
from dspy_operator.runtime_client import RuntimeClient
from tests.integration.gateway import until
from tests.integration.runtime import KEY, RunningProvider, refusal, running_provider, running_runtime
from tests.integration.test_runtime import Save, save

__all__ = ["save"]

CODE = '''
import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import dspy


class Base(dspy.Module):
    def __init__(self):
        super().__init__()
        self.answer = dspy.Predict("question -> answer")


class OwnLoop(Base):
    def forward(self, question: str):
        async def both():
            return await asyncio.gather(self.answer.acall(question=question), self.answer.acall(question="b"))

        return asyncio.run(both())[0]


class OwnThreads(Base):
    def forward(self, question: str):
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda each: self.answer(question=each), [question, "b"]))[0]


class InExecutor(Base):
    async def aforward(self, question: str):
        return await asyncio.get_running_loop().run_in_executor(None, lambda: self.answer(question=question))


class SyncInAsync(Base):
    async def aforward(self, question: str):
        return self.answer(question=question)


class Best(dspy.Module):
    def __init__(self):
        super().__init__()
        self.best = dspy.BestOfN(dspy.Predict("question -> answer"), N=2, reward_fn=lambda *_: 1.0, threshold=0.5)

    def forward(self, question: str):
        return self.best(question=question)


class FirstTryFails(dspy.Module):
    def __init__(self):
        super().__init__()
        self.answer = dspy.Predict("question -> answer")

    def forward(self, question: str):
        if not self.answer.lm.kwargs.get("rollout_id"):
            raise ValueError("what a customer asked")
        return self.answer(question=question)


class BestOfTwo(dspy.Module):
    def __init__(self):
        super().__init__()
        self.best = dspy.BestOfN(FirstTryFails(), N=2, reward_fn=lambda *_: 1.0, threshold=0.5)

    def forward(self, question: str):
        return self.best(question=question)


class Refined(dspy.Module):
    def __init__(self):
        super().__init__()
        self.refined = dspy.Refine(dspy.Predict("question -> answer"), N=2, reward_fn=lambda *_: 1.0, threshold=0.5)

    def forward(self, question: str):
        return self.refined(question=question)


class InParallel(Base):
    def forward(self, question: str):
        pairs = [(self.answer, dspy.Example(question=str(n)).with_inputs("question")) for n in range(3)]
        return dspy.Parallel(num_threads=3, disable_progress_bar=True)(pairs)[0]


class Compared(dspy.Module):
    def __init__(self):
        super().__init__()
        self.compare = dspy.MultiChainComparison("question -> answer", M=2)

    def forward(self, question: str):
        return self.compare([dspy.Prediction(rationale="r", answer="a")] * 2, question=question)


class TwoModels(dspy.Module):
    def __init__(self):
        super().__init__()
        self.draft = dspy.Predict("question -> draft")
        self.answer = dspy.Predict("draft -> answer")
        self.draft.set_lm(dspy.LM("openai/cheap-of-the-author", api_key="sk-KEPT-CHEAP"))
        self.answer.set_lm(dspy.LM("openai/strong-of-the-author", api_key="sk-KEPT-STRONG"))
        self.judge = dspy.LM("openai/judge-of-the-author", api_key="sk-KEPT-JUDGE", api_base="http://127.0.0.1:9/v1")

    def forward(self, question: str):
        draft = self.draft(question=question).draft
        with dspy.context(lm=self.judge):
            dspy.Predict("draft -> grade")(draft=draft)
        return self.answer(draft=draft)


class ExitsInTask(Base):
    async def aforward(self, question: str):
        async def tool():
            if question == "exit":
                raise SystemExit(3)
            return (await self.answer.acall(question=question)).answer

        return {"answer": (await asyncio.gather(tool()))[0]}


class GoesOn(Base):
    async def aforward(self, question: str):
        while question == "on":
            try:
                await asyncio.sleep(20)
                break
            except asyncio.CancelledError:
                pass
        return {"answer": next(iter([question] if question != "stop" else []))}


class Stops(Base):
    def forward(self, question: str):
        return {"answer": next(iter([question] if question != "stop" else []))}


class Coroutine(Base):
    async def forward(self, question: str):
        return await self.answer.acall(question=question)


class HandsOn(Base):
    def forward(self, **fields):
        more = fields.pop("more", [])
        return {"answer": self.answer(**fields).answer, "more": len(more)}


class Tools(dspy.Module):
    def __init__(self):
        super().__init__()

        async def weather(city: str) -> str:
            """The weather."""
            return f"sunny in {city}"

        self.tool = dspy.Tool(weather)

    def forward(self, city: str):
        return {"weather": self.tool(city=city)}


class Embeds(Base):
    def __init__(self):
        super().__init__()
        self.embed = dspy.Embedder("openai/embed", api_key="sk-KEPT-BY-THE-AUTHOR", api_base="http://127.0.0.1:9")

    def forward(self, question: str):
        return {"lengths": [int(vector[0]) for vector in self.embed([question, "four"])]}


class Configures(Base):
    def forward(self, question: str):
        if question == "configure":
            dspy.configure(lm=dspy.LM("openai/another", api_base="http://127.0.0.1:9/v1", api_key="x"))
        return self.answer(question=question)


class Blocks(Base):
    async def aforward(self, question: str):
        if question == "block":
            time.sleep(3)
        return await self.answer.acall(question=question)


class Interrupts(Base):
    def forward(self, question: str):
        if question == "interrupt":
            raise KeyboardInterrupt
        return self.answer(question=question)


class CancelsItself(Base):
    async def aforward(self, question: str):
        if question == "cancel":
            asyncio.current_task().cancel()
        return await self.answer.acall(question=question)


class OwnLoopAndThread(Base):
    def forward(self, question: str):
        async def one():
            return await dspy.asyncify(self.answer)(question=question)

        return asyncio.run(one())


class OwnAdapter(Base):
    async def aforward(self, question: str):
        class MyAdapter(dspy.ChatAdapter):
            pass

        with dspy.context(adapter=MyAdapter()):
            return await self.answer.acall(question=question)


class Json(Base):
    async def aforward(self, question: str):
        with dspy.context(adapter=dspy.JSONAdapter()):
            return await self.answer.acall(question=question)


class TwiceAtOnce(dspy.Module):
    def __init__(self):
        super().__init__()
        self.answer = dspy.ChainOfThought("question -> answer")

    async def aforward(self, question: str):
        first, second = await asyncio.gather(
            self.answer.acall(question=question), self.answer.acall(question=question + " again")
        )
        return {"answer": first.answer}


class SaysAndGoesOn(Base):
    async def aforward(self, question: str):
        answer = await self.answer.acall(question=question)
        until = time.monotonic() + 4
        while time.monotonic() < until:
            try:
                await asyncio.sleep(0.5)
            except asyncio.CancelledError:
                pass
        return answer


class StreamsItself(Base):
    async def aforward(self, question: str):
        listener = dspy.streaming.StreamListener(signature_field_name="answer")
        stream = dspy.streamify(self.answer, stream_listeners=[listener], is_async_program=True)
        pieces, answer = 0, None
        async for each in stream(question=question):
            if isinstance(each, dspy.Prediction):
                answer = each
            else:
                pieces += 1
        return {"answer": answer.answer, "pieces": pieces}


class InThread(Base):
    def forward(self, question: str):
        return self.answer(question=question)


class Hangs(Base):
    def forward(self, question: str):
        if question == "hang":
            time.sleep(30)
        return self.answer(question=question)
'''

Make = Callable[[str], Path]


@pytest.fixture(scope="module")
def make(save: Save, tmp_path_factory: pytest.TempPathFactory) -> Make:
    folder = tmp_path_factory.mktemp("code")
    code = folder / "programs_of_all_kinds.py"
    code.write_text(CODE)
    sys.path.insert(0, str(folder))
    module = importlib.import_module("programs_of_all_kinds")
    saved: dict[str, Path] = {}

    def made(name: str) -> Path:
        if name not in saved:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                saved[name] = save(getattr(module, name)(), code_paths=[str(code)])
        return saved[name]

    return made


@pytest.fixture
async def provider() -> AsyncIterator[RunningProvider]:
    async with running_provider() as running:
        yield running


@pytest.mark.parametrize(
    "name",
    [
        "OwnLoop",
        "OwnThreads",
        "InExecutor",
        "SyncInAsync",
        "Best",
        "Refined",
        "InParallel",
        "Compared",
        "Configures",
        "Coroutine",
    ],
)
async def test_a_program_answers_every_time(make: Make, provider: RunningProvider, tmp_path: Path, name: str) -> None:
    async with running_runtime(make(name), provider.base, tmp_path) as runtime:
        for _ in range(4):
            answers = await asyncio.gather(*(runtime.predict(question=f"{each}") for each in range(4)))
            assert [status for status, *_ in answers] == [200] * 4, runtime.log.read_text()
        metrics = await runtime.get("/metrics")
    tokens = next(line for line in metrics.splitlines() if line.startswith("dspy_runtime_tokens_total"))
    assert float(tokens.split()[-1]) > 0


async def test_tries_that_fail_cost_later_requests_nothing_and_are_logged_without_their_words(
    make: Make, provider: RunningProvider, tmp_path: Path
) -> None:
    async with running_runtime(make("BestOfTwo"), provider.base, tmp_path) as runtime:
        for _ in range(6):
            assert (await runtime.predict(question="?"))[0] == 200, runtime.log.read_text()
        log = runtime.log.read_text()
    assert log.count("A try failed: %s") == 6
    assert "customer" not in log


async def test_a_client_chooses_no_prompt_of_a_program_that_hands_on_its_inputs(
    make: Make, provider: RunningProvider, tmp_path: Path
) -> None:
    async with running_runtime(make("HandsOn"), provider.base, tmp_path) as runtime:
        assert (await runtime.predict(question="?"))[0] == 200
        for name in ("config", "demos", "signature"):
            status, body, _ = await runtime.predict(question="?", **{name: {}})
            assert (status, body["error"]["fields"][0]["field"]) == (422, name)


async def test_a_task_that_exits_ends_its_request_only(make: Make, provider: RunningProvider, tmp_path: Path) -> None:
    async with running_runtime(make("ExitsInTask"), provider.base, tmp_path) as runtime:
        assert (await runtime.predict(question="exit"))[0] == 500
        assert (await runtime.predict(question="?"))[0] == 200


async def test_a_program_that_goes_on_after_its_deadline_is_waited_for_no_longer(
    make: Make, provider: RunningProvider, tmp_path: Path
) -> None:
    async with running_runtime(make("GoesOn"), provider.base, tmp_path, timeout_seconds=1) as runtime:
        began = time.monotonic()
        status, body, headers = await runtime.predict(question="on")
        assert (status, headers["x-dspy-outcome"]) == (504, "timeout")
        assert body["error"]["requestId"] == headers["x-dspy-request-id"]
        assert time.monotonic() - began < 4.0
        assert (await runtime.predict(question="?"))[0] == 200


async def test_a_key_that_interrupts_ends_its_request_only(
    make: Make, provider: RunningProvider, tmp_path: Path
) -> None:
    async with running_runtime(make("Interrupts"), provider.base, tmp_path) as runtime:
        status, _, headers = await runtime.predict(question="interrupt")
        assert (status, headers["x-dspy-outcome"]) == (500, "program_error")
        assert (await runtime.predict(question="?"))[0] == 200


async def test_a_program_that_cancels_itself_is_no_client_that_left(
    make: Make, provider: RunningProvider, tmp_path: Path
) -> None:
    async with running_runtime(make("CancelsItself"), provider.base, tmp_path) as runtime:
        status, _, headers = await runtime.predict(question="cancel")
        assert (status, headers["x-dspy-outcome"]) == (500, "program_error")


async def test_a_stop_iteration_loses_no_place(make: Make, provider: RunningProvider, tmp_path: Path) -> None:
    async with running_runtime(make("Stops"), provider.base, tmp_path, concurrency=1, timeout_seconds=5) as runtime:
        for question, status in (("stop", 500), ("stop", 500), ("?", 200)):
            assert (await runtime.predict(question=question))[0] == status


async def test_requests_that_fail_leave_no_memory_behind(make: Make, provider: RunningProvider, tmp_path: Path) -> None:
    provider.provider.settings.error_share, provider.provider.settings.error_status = 1.0, 400
    async with running_runtime(make("HandsOn"), provider.base, tmp_path) as runtime:
        for _ in range(10):
            await runtime.predict(question="x" * (900 << 10))
        before = runtime.memory_bytes()
        for _ in range(120):
            assert (await runtime.predict(question="x" * (900 << 10)))[0] == 502
        assert runtime.memory_bytes() - before < 160 << 20


async def test_a_body_of_very_many_values_is_refused_before_they_are_looked_at(
    make: Make, provider: RunningProvider, tmp_path: Path
) -> None:
    async with running_runtime(make("HandsOn"), provider.base, tmp_path) as runtime:
        status, body, _ = await runtime.predict(question=[1] * 300_000)
        assert (status, body["error"]["code"]) == (413, "too_many_values")
        status, body, _ = await runtime.predict(question="?", more=[1] * 200_000)
        assert status == 200


async def test_an_answer_that_is_not_of_the_given_schema_is_a_failure_that_is_logged(
    make: Make, provider: RunningProvider, tmp_path: Path
) -> None:
    given = {"output": {"properties": {"answer": {"maxLength": 3}}, "required": ["answer"]}}
    async with running_runtime(make("HandsOn"), provider.base, tmp_path, given_schema=given) as runtime:
        status, body, headers = await runtime.predict(question="?")
        assert (status, body["error"]["code"]) == (502, "output_schema")
        lines = [json.loads(line) for line in runtime.log.read_text().splitlines()]
    (failed,) = [line for line in lines if line["event"] == "A request failed"]
    assert failed["request_id"] == headers["x-dspy-request-id"]


async def test_models_of_the_artifact_are_replaced_wherever_it_keeps_them_and_said(
    make: Make, provider: RunningProvider, tmp_path: Path
) -> None:
    cheap = {"model": "openai/cheap", "api_base": provider.base, "api_key_file": str(tmp_path / "key")}
    lm = {"by_predictor": {"draft": cheap}}
    async with running_runtime(make("TwoModels"), provider.base, tmp_path, lm=lm) as runtime:
        assert (await runtime.predict(question="?"))[0] == 200
        async with runtime.session.get(f"{runtime.url}/schema") as response:
            told = (await response.json())["languageModels"]
        text = json.dumps(told) + runtime.log.read_text()
    assert provider.provider.models == {"cheap": 1, "standin": 2}
    assert {(each["where"], each["saved"], each["serves"]) for each in told} == {
        ("draft", "openai/cheap-of-the-author", "openai/cheap"),
        ("answer", "openai/strong-of-the-author", "openai/standin"),
        ("self.judge", "openai/judge-of-the-author", "openai/standin"),
    }
    assert "KEPT" not in text


@pytest.mark.parametrize(
    ("lm", "words"),
    [
        ({"by_predictor": {"drafts": {"model": "openai/x", "api_base": "http://lm/v1"}}}, "did you mean 'draft'?"),
        ({"model": "mistrall/x"}, "did you mean mistral/x?"),
        ({"model": "openai/gpt-4o", "api_base": None, "api_key_file": None}, "OPENAI_API_KEY"),
        ({"model": "openai/gpt-5", "parameters": {"temperature": 0.3}}, "temperature=1.0"),
        ({"model": "openai/gpt-4o", "parameters": {"n": 0}}, "n must be a positive integer"),
        ({"model": "vertex/gemini-2.5-pro", "api_base": None}, "project"),
    ],
)
async def test_what_no_request_could_call_is_refused_before_the_first(
    make: Make, provider: RunningProvider, tmp_path: Path, lm: dict[str, Any], words: str
) -> None:
    told = await refusal(make("TwoModels"), provider.base, tmp_path, lm=lm)
    assert told["reason"] == "LMConfigurationInvalid"
    assert words in told["message"]


async def test_settings_that_answers_hang_on_are_kept_and_the_rest_is_said(
    make: Make,
    save: Save,
    provider: RunningProvider,
    tmp_path: Path,
) -> None:
    import dspy

    make("Tools")
    module = importlib.import_module("programs_of_all_kinds")
    code = [str(module.__file__)]
    with dspy.context(allow_tool_async_sync_conversion=True, branch_idx=3):
        kept = save(module.Tools(), code_paths=code)
    async with running_runtime(kept, provider.base, tmp_path) as runtime:
        assert (await runtime.predict(city="Rome"))[1] == {"weather": "sunny in Rome"}
        async with runtime.session.get(f"{runtime.url}/schema") as response:
            assert (await response.json())["droppedSettings"] == ["branch_idx"]


async def test_a_program_that_embeds_is_carried_with_the_key_of_its_language_model(
    make: Make, provider: RunningProvider, tmp_path: Path
) -> None:
    async with running_runtime(make("Embeds"), provider.base, tmp_path) as runtime:
        assert (await runtime.predict(question="eleven more"))[1] == {"lengths": [11, 4]}, runtime.log.read_text()
        assert (await runtime.predict(question="three"))[1] == {"lengths": [5, 4]}
    assert provider.provider.keys == {f"Bearer {KEY}"}


async def test_a_program_that_embeds_where_no_key_is_given_sends_none(
    make: Make, provider: RunningProvider, tmp_path: Path
) -> None:
    async with running_runtime(make("Embeds"), provider.base, tmp_path, lm={"api_key_file": None}) as runtime:
        assert (await runtime.predict(question="three"))[1] == {"lengths": [5, 4]}, runtime.log.read_text()
    assert provider.provider.keys == {""}


async def test_a_program_cannot_change_dspy_for_all_others(
    make: Make, provider: RunningProvider, tmp_path: Path
) -> None:
    async with running_runtime(make("Configures"), provider.base, tmp_path) as runtime:
        status, _, headers = await runtime.predict(question="configure")
        assert (status, headers["x-dspy-outcome"]) == (500, "program_error")
        assert (await runtime.predict(question="?"))[0] == 200


async def test_a_program_that_blocks_the_loop_is_named_and_probes_answer(
    make: Make, provider: RunningProvider, tmp_path: Path
) -> None:
    async with running_runtime(make("Blocks"), provider.base, tmp_path) as runtime:
        blocked = asyncio.ensure_future(runtime.predict(question="block"))
        slowest = 0.0
        while not blocked.done():
            asked = time.monotonic()
            assert await runtime.ready()
            slowest = max(slowest, time.monotonic() - asked)
            await asyncio.sleep(0.05)
        assert (await blocked)[0] == 200
        assert slowest < 1.0
        lines = [json.loads(line) for line in runtime.log.read_text().splitlines()]
        (told,) = [line for line in lines if "blocks the event loop" in line["event"]]
        assert any("programs_of_all_kinds.py" in frame and "aforward" in frame for frame in told["frames"])
        seconds = next(
            float(line.split()[-1])
            for line in (await runtime.get("/metrics")).splitlines()
            if line.startswith("dspy_runtime_event_loop_blocked_seconds_total")
        )
        assert 2.0 < seconds < 4.0
        client = RuntimeClient(urlsplit(runtime.probe_url).port or 0)
        stood_still = await client.standstill("127.0.0.1", "blocks-1")
        assert await client.describe("127.0.0.1", "blocks-1") == Description("blocks-1")
        await client.close()
        assert stood_still is not None
        assert 2.0 < stood_still.seconds < 4.0
        assert 0.0 <= stood_still.age_seconds < 30.0
        assert stood_still.place.startswith("programs_of_all_kinds.py:")
        assert stood_still.place.endswith(" aforward")


async def test_a_thread_that_hangs_is_counted_and_half_of_the_places_end_the_pod(
    make: Make, provider: RunningProvider, tmp_path: Path
) -> None:
    async with running_runtime(make("Hangs"), provider.base, tmp_path, timeout_seconds=1, concurrency=2) as runtime:
        assert (await runtime.predict(question="hang"))[0] == 504
        assert "dspy_runtime_threads_abandoned{" in await runtime.get("/metrics")
        assert await runtime.get("/livez") == "ok"
        assert (await runtime.predict(question="hang"))[0] == 504
        assert await runtime.get("/livez") == "the program hangs"
        runtime.process.terminate()
        await asyncio.wait_for(runtime.process.wait(), 15)


@pytest.mark.parametrize("name", ["OwnThreads", "Configures", "OwnLoop"])
async def test_a_client_that_leaves_ends_the_calls_in_its_name(
    make: Make, provider: RunningProvider, tmp_path: Path, name: str
) -> None:
    provider.provider.settings.slow_when, provider.provider.settings.slow_seconds = "slow", 20.0
    async with running_runtime(make(name), provider.base, tmp_path, concurrency=1) as runtime:
        leaving = asyncio.ensure_future(runtime.predict(question="slow"))
        await until(lambda: _true(provider.provider.calls > 0), "the provider is asked")
        leaving.cancel()
        if name != "OwnThreads":  # a pool of the program's own knows no request
            await until(lambda: _true(provider.provider.gone > 0), "the call is ended")
            began = time.monotonic()
            assert (await runtime.predict(question="?"))[0] == 200
            assert time.monotonic() - began < 2.0


async def test_a_wait_that_does_not_fit_is_told_at_once_and_one_that_fits_costs_no_place(
    make: Make, provider: RunningProvider, tmp_path: Path
) -> None:
    settings = provider.provider.settings
    settings.error_when, settings.error_status, settings.error_headers = "limited", 429, {"Retry-After": "30"}
    limits = {"timeout_seconds": 10, "concurrency": 1, "queue": 4, "lm": {"max_retries": 2}}
    async with running_runtime(make("Blocks"), provider.base, tmp_path, **limits) as runtime:
        began = time.monotonic()
        status, body, headers = await runtime.predict(question="limited")
        assert (status, body["error"]["code"], headers["retry-after"]) == (429, "rate_limit", "30")
        assert time.monotonic() - began < 2.0
        settings.error_headers = {"Retry-After": "3"}
        calls = provider.provider.calls
        waits = asyncio.ensure_future(runtime.predict(question="limited"))
        await until(lambda: _true(provider.provider.calls > calls), "the provider says wait")
        began = time.monotonic()
        assert (await runtime.predict(question="?"))[0] == 200
        assert time.monotonic() - began < 1.0
        settings.error_when = ""
        assert (await waits)[0] == 200


async def test_time_that_was_spent_in_the_queue_is_overload(
    make: Make, provider: RunningProvider, tmp_path: Path
) -> None:
    provider.provider.settings.slow_when, provider.provider.settings.slow_seconds = "slow", 20.0
    limits = {"timeout_seconds": 1, "concurrency": 1, "queue": 4}
    async with running_runtime(make("Blocks"), provider.base, tmp_path, **limits) as runtime:
        first = asyncio.ensure_future(runtime.predict(question="slow"))
        await until(lambda: _true(provider.provider.calls > 0), "the first has the place")
        second = await runtime.predict(question="slow")
        assert (await first)[2]["x-dspy-outcome"] == "timeout"
        assert second[2]["x-dspy-outcome"] in ("overloaded", "timeout")


async def test_bodies_that_do_not_come_whole_are_bounded(make: Make, provider: RunningProvider, tmp_path: Path) -> None:
    async def piece() -> AsyncIterator[bytes]:
        for _ in range(15):
            yield b"x" * (900 << 10)
        await asyncio.sleep(5)

    async with running_runtime(make("Configures"), provider.base, tmp_path) as runtime:
        before = runtime.memory_bytes()

        async def upload() -> int:
            try:
                async with runtime.session.post(f"{runtime.url}/predict", data=piece()) as response:
                    return response.status
            except aiohttp.ClientError:
                return 0

        uploads = [asyncio.ensure_future(upload()) for _ in range(30)]
        await until(lambda: _true(sum(each.done() for each in uploads) >= 20), "what does not fit is refused")
        assert runtime.memory_bytes() - before < 300 << 20
        assert (await runtime.predict(question="?"))[0] == 200
        for each in uploads:
            each.cancel()


async def _true(value: bool) -> bool:
    return value


TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize(
    ("name", "traceparent", "sent"),
    [
        ("Coroutine", f"00-{TRACE_ID}-00f067aa0ba902b7-01", True),
        ("SyncInAsync", f"00-{TRACE_ID}-00f067aa0ba902b7-00", True),
        ("OwnLoop", f"00-{TRACE_ID}-00f067aa0ba902b7-01", True),
        ("Coroutine", f"00-{'0' * 32}-00f067aa0ba902b7-01", False),
        ("Coroutine", "made up", False),
        ("Coroutine", "", False),
    ],
)
async def test_calls_belong_to_the_trace_of_the_request_that_makes_them(
    make: Make, provider: RunningProvider, tmp_path: Path, name: str, traceparent: str, sent: bool
) -> None:
    headers = {"traceparent": traceparent, "tracestate": "vendor=inside"} if traceparent else {}
    async with running_runtime(make(name), provider.base, tmp_path) as runtime:
        url = f"{runtime.url}/predict"
        async with runtime.session.post(url, json={"question": "?"}, headers=headers) as response:
            assert response.status == 200, runtime.log.read_text()
        last = provider.provider.last
        assert last is not None
        seen = {each.lower(): value for each, value in last.headers.items()}
        provider.provider.settings.error_share = 1.0
        async with runtime.session.post(url, json={"question": "?"}, headers=headers) as response:
            assert response.status == 502
        failed = json.loads(runtime.log.read_text().splitlines()[-1])
    assert seen.get("traceparent") == (traceparent if sent else None)
    assert "tracestate" not in seen
    assert failed.get("trace_id") == (TRACE_ID if sent else None)
