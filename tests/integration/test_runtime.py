"""The runtime as a process: both artifact formats, checked input, typed errors, no traps of its libraries."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dspy_contract.artifact import digest_of, pack
from tests.integration.gateway import until
from tests.integration.runtime import KEY, RunningProvider, Runtime, refusal, running_provider, running_runtime, start

MODULE = """
import dspy

class Triage(dspy.Module):
    def __init__(self):
        super().__init__()
        self.classify = dspy.Predict("ticket -> category")

    {kind}def {name}(self, ticket: str, urgent: bool = False):
        return {wait}self.classify{call}(ticket=ticket)
"""

FLAGS = """
import dspy

class Flags(dspy.Module):
    def forward(self, flags: list[str]):
        return dspy.Prediction(answer="a", dspy_flags=flags)
"""
SCORES = """
import dspy, numpy

class Scores(dspy.Module):
    def forward(self, score: str):
        return dspy.Prediction(answer="a", dspy_score=eval(score))
"""
RAISES = """
import dspy, sys

class Raises(dspy.Module):
    async def aforward(self, what: str):
        if what == "exit":
            sys.exit(3)
        if what == "cancelled":
            import asyncio
            raise asyncio.CancelledError
        if what == "key":
            {}["a customer's name"]
        return {"fine": what}
"""

Save = Callable[..., Path]


@pytest.fixture(scope="session")
def save(tmp_path_factory: pytest.TempPathFactory) -> Save:
    """Saves a program as MLflow does and returns its directory."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.dspy

    def save(program: object, **options: Any) -> Path:
        folder = tmp_path_factory.mktemp("model") / "model"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mlflow.dspy.save_model(program, str(folder), pip_requirements=["dspy"], **options)
        return folder

    return save


@pytest.fixture(scope="session")
def question_model(save: Save) -> Path:
    import dspy

    with dspy.context(lm=dspy.LM("openai/saved", api_key="sk-SAVED-IN-ARTIFACT", api_base="http://127.0.0.1:9/v1")):
        return save(dspy.ChainOfThought("question: str, limit: int -> answer: str"))


@pytest.fixture
async def provider() -> AsyncIterator[RunningProvider]:
    async with running_provider() as running:
        yield running


@pytest.fixture
async def runtime(question_model: Path, provider: RunningProvider, tmp_path: Path) -> AsyncIterator[Runtime]:
    async with running_runtime(question_model, provider.base, tmp_path) as running:
        yield running


async def test_a_program_answers_with_its_fields_and_the_configured_lm_and_key(
    runtime: Runtime, provider: RunningProvider
) -> None:
    status, body, headers = await runtime.predict(question="why?", limit=3)
    assert (status, headers["x-dspy-outcome"]) == (200, "ok")
    assert int(headers["x-dspy-tokens"]) == sum(_tokens(await runtime.get("/metrics")))
    assert body == {"reasoning": "A helpful answer.", "answer": "A helpful answer."}
    assert provider.provider.keys == {f"Bearer {KEY}"}


def _tokens(metrics: str) -> list[int]:
    found = [
        int(float(line.split()[-1])) for line in metrics.splitlines() if line.startswith("dspy_runtime_tokens_total{")
    ]
    assert len(found) == 2, "of the prompt and of the completion"
    return found


async def test_a_program_flags_its_answers(
    save: Save, provider: RunningProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib

    code = tmp_path / "flags_its_answers.py"
    code.write_text(FLAGS)
    monkeypatch.syspath_prepend(str(tmp_path))
    model = save(importlib.import_module("flags_its_answers").Flags(), code_paths=[str(code)])
    async with running_runtime(model, provider.base, tmp_path) as runtime:
        status, body, headers = await runtime.predict(flags=["too-long", "blocked", "blocked"])
        assert (status, body, headers["x-dspy-flags"]) == (200, {"answer": "a"}, "blocked,too-long")
        status, body, headers = await runtime.predict(flags=[])
        assert (status, body, headers.get("x-dspy-flags")) == (200, {"answer": "a"}, None)
        for unfit in (["No Flag"], ["a", "b", "c", "d", "e"], ["x" * 31]):
            status, _, headers = await runtime.predict(flags=unfit)
            assert (status, headers["x-dspy-outcome"]) == (500, "program_error")


async def test_an_answer_says_what_it_cost(
    question_model: Path, save: Save, provider: RunningProvider, tmp_path: Path
) -> None:
    """By the price that the spec gives; nobody knows that of a model of one's own without one."""
    price = {"input": 2.0, "output": 10.0}
    async with running_runtime(question_model, provider.base, tmp_path, lm={"price": price}) as runtime:
        _, _, headers = await runtime.predict(question="why?", limit=3)
        metrics = await runtime.get("/metrics")
        asked, answered = _tokens(metrics)
        assert int(headers["x-dspy-cost-nanousd"]) == 2_000 * asked + 10_000 * answered
        (told,) = [
            float(line.split()[-1]) for line in metrics.splitlines() if line.startswith("dspy_runtime_cost_usd_t")
        ]
        assert told == pytest.approx(int(headers["x-dspy-cost-nanousd"]) / 1e9)
        _, _, headers = await runtime.predict(question="why?")
        assert "x-dspy-cost-nanousd" not in headers, "what was not asked for cost nothing, and is no answer"
    async with running_runtime(question_model, provider.base, tmp_path) as runtime:
        _, _, headers = await runtime.predict(question="why?", limit=3)
        assert "x-dspy-cost-nanousd" not in headers
        assert "dspy_runtime_unpriced_answers_total" in await runtime.get("/metrics")


async def test_a_program_scores_its_answers(
    save: Save, provider: RunningProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib

    code = tmp_path / "scores_its_answers.py"
    code.write_text(SCORES)
    monkeypatch.syspath_prepend(str(tmp_path))
    model = save(importlib.import_module("scores_its_answers").Scores(), code_paths=[str(code)])
    async with running_runtime(model, provider.base, tmp_path) as runtime:
        fits = {"0.8": "0.800000", "True": "1.000000", "0": "0.000000", "numpy.float32(0.5)": "0.500000", "None": None}
        for score, said in fits.items():
            status, body, headers = await runtime.predict(score=score)
            assert (status, body, headers.get("x-dspy-score")) == (200, {"answer": "a"}, said)
            assert headers["x-dspy-cost-nanousd"] == "0", "no model was asked"
        for unfit in ("1.01", "-0.1", "'good'", "float('nan')", "[1]"):
            status, _, headers = await runtime.predict(score=unfit)
            assert (status, headers["x-dspy-outcome"], "x-dspy-score" in headers) == (500, "program_error", False)


async def test_wrong_input_names_the_field_and_calls_no_lm(runtime: Runtime, provider: RunningProvider) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"question": "why?"}, "limit"),
        ({"question": "?", "limit": "many"}, "limit"),
        ({"question": "?", "limit": 1, "x": 1}, "x"),
    ]
    for fields, wrong in cases:
        status, body, headers = await runtime.predict(**fields)
        assert (status, headers["x-dspy-outcome"]) == (422, "client_error")
        assert [field["field"] for field in body["error"]["fields"]] == [wrong]
    async with runtime.session.post(f"{runtime.url}/predict", data=b"no json") as response:
        assert response.status == 422
    assert provider.provider.calls == 0


async def test_no_answer_leads_a_client_elsewhere(runtime: Runtime) -> None:
    async with runtime.session.post(f"{runtime.url}/predict/", json={}, allow_redirects=False) as response:
        assert response.status == 404


async def test_every_answer_has_an_id_of_ours(runtime: Runtime) -> None:
    headers = {"x-request-id": "the client's"}
    ids = set()
    for fields in ({"question": "?", "limit": 1}, {}, {}):
        async with runtime.session.post(f"{runtime.url}/predict", json=fields, headers=headers) as response:
            ids.add(response.headers["x-dspy-request-id"])
            if response.status != 200:
                assert (await response.json())["error"]["requestId"] in ids
    assert len(ids) == 3


async def test_whatever_a_program_raises_ends_that_request_only_and_is_logged_without_its_words(
    save: Save, provider: RunningProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib

    code = tmp_path / "raises_anything.py"
    code.write_text(RAISES)
    monkeypatch.syspath_prepend(str(tmp_path))
    model = save(importlib.import_module("raises_anything").Raises(), code_paths=[str(code)])
    async with running_runtime(model, provider.base, tmp_path) as runtime:
        for what in ("exit", "cancelled", "key"):
            status, _, headers = await runtime.predict(what=what)
            assert (status, headers["x-dspy-outcome"]) == (500, "program_error")
        assert (await runtime.predict(what="ok"))[0] == 200
    failures = [
        line for line in map(json.loads, runtime.log.read_text().splitlines()) if line["event"] == "A request failed"
    ]
    assert [line["classes"][0] for line in failures] == [
        "builtins.SystemExit",
        "asyncio.exceptions.CancelledError",
        "builtins.KeyError",
    ]
    assert all("raises_anything.py" in line["frames"][-1] for line in failures)
    assert "a customer's name" not in runtime.log.read_text()


async def test_input_whose_type_checks_itself_is_refused_and_costs_no_other_request(
    save: Save, provider: RunningProvider, tmp_path: Path
) -> None:
    import dspy

    model = save(dspy.Predict("image: dspy.Image -> answer"))
    async with running_runtime(model, provider.base, tmp_path) as runtime:
        bad = {"url": "http://x.invalid/y.png", "download": True}
        answers = [
            await runtime.predict(image=bad if turn % 2 else {"url": "http://x.invalid/y.png"}) for turn in range(10)
        ]
    assert {(status, headers["x-dspy-outcome"]) for status, _, headers in answers[1::2]} == {(422, "client_error")}
    assert {status for status, _, _ in answers[0::2]} == {200}


async def test_schema_tells_both_sides_and_where_it_knows_them_from(runtime: Runtime) -> None:
    async with runtime.session.get(f"{runtime.url}/schema") as response:
        document = await response.json()
    assert document["source"] == "signature"
    assert set(document["input"]["properties"]) == {"question", "limit"}
    assert set(document["output"]["properties"]) == {"reasoning", "answer"}


@pytest.mark.parametrize(
    ("settings", "status", "outcome", "code"),
    [
        ({"error_share": 1.0, "error_status": 500}, 502, "upstream_error", "provider_error"),
        (
            {"error_share": 1.0, "error_status": 429, "error_headers": {"Retry-After": "7"}},
            429,
            "upstream_error",
            "rate_limit",
        ),
        ({"error_share": 1.0, "error_status": 401}, 502, "upstream_error", "auth"),
        (
            {
                "error_share": 1.0,
                "error_status": 400,
                "error_body": {"error": {"message": "long", "code": "context_length_exceeded"}},
            },
            413,
            "program_error",
            "context_window",
        ),
        ({"prose_when": "question"}, 502, "program_error", "parse"),
        ({"latency_seconds": 3.0}, 504, "timeout", "timeout"),
    ],
)
async def test_errors_are_typed_and_hold_nothing_of_the_providers_words(
    question_model: Path,
    provider: RunningProvider,
    tmp_path: Path,
    settings: dict[str, object],
    status: int,
    outcome: str,
    code: str,
) -> None:
    for name, value in settings.items():
        setattr(provider.provider.settings, name, value)
    async with running_runtime(question_model, provider.base, tmp_path, timeout_seconds=1) as runtime:
        got, body, headers = await runtime.predict(question="why?", limit=1)
        assert (got, headers["x-dspy-outcome"], body["error"]["code"]) == (status, outcome, code)
        assert "the provider failed" not in json.dumps(body)
        if code == "rate_limit":
            assert headers["retry-after"] == "7"
        assert f'outcome="{outcome}",revision=""' in await runtime.get("/metrics")


async def test_a_provider_that_cannot_be_reached_is_an_upstream_error(question_model: Path, tmp_path: Path) -> None:
    async with running_runtime(question_model, "http://127.0.0.1:9/v1", tmp_path) as runtime:
        status, body, headers = await runtime.predict(question="why?", limit=1)
        assert (status, headers["x-dspy-outcome"], body["error"]["code"]) == (
            503,
            "upstream_error",
            "provider_unreachable",
        )


async def test_beyond_concurrency_and_queue_requests_are_refused_at_once(
    question_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    provider.provider.settings.latency_seconds = 1.0
    async with running_runtime(question_model, provider.base, tmp_path, concurrency=2, queue=1) as runtime:
        answers = await asyncio.gather(*(runtime.predict(question="why?", limit=1) for _ in range(8)))
    outcomes = [headers["x-dspy-outcome"] for _, _, headers in answers]
    assert (outcomes.count("ok"), outcomes.count("overloaded")) == (3, 5)
    refused = next(headers for status, _, headers in answers if status == 503)
    assert refused["retry-after"] == "1"


async def test_who_is_more_urgent_goes_first_where_the_spec_allows_it(
    question_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    provider.provider.settings.latency_seconds = 0.5
    ended: list[str] = []

    async def ask(runtime: Runtime, priority: str) -> int:
        headers, asked = {"x-dspy-priority": priority}, {"question": "why?", "limit": 1}
        async with runtime.session.post(f"{runtime.url}/predict", json=asked, headers=headers) as response:
            ended.append(priority)
            return response.status

    settings = {"concurrency": 1, "queue": 2}
    async with running_runtime(question_model, provider.base, tmp_path, priorities="Allow", **settings) as runtime:
        tasks = []
        for number, priority in enumerate(("normal", "low", "low", "high")):
            tasks.append(asyncio.ensure_future(ask(runtime, priority)))
            await until(lambda: provider.provider.in_flight == 1, "one runs", 10)
            queued = f'dspy_runtime_requests_queued{{revision=""}} {min(number, 2)}.0'
            await until(functools.partial(shows, runtime, queued), "the others wait", 10)
        assert await asyncio.gather(*tasks) == [200, 200, 503, 200]
        assert ended == ["low", "normal", "high", "low"], "the one that came last lost its place in the queue"
        assert await ask(runtime, "urgent") == 400
    async with running_runtime(question_model, provider.base, tmp_path) as runtime:
        assert await ask(runtime, "urgent") == 200, "the header is nobody's business"


async def shows(runtime: Runtime, words: str) -> bool:
    return words in await runtime.get("/metrics")


async def test_hundreds_of_requests_are_in_flight_at_once(
    question_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    provider.provider.settings.latency_seconds = 1.0
    async with running_runtime(question_model, provider.base, tmp_path, concurrency=400) as runtime:
        work = [asyncio.ensure_future(runtime.predict(question="why?", limit=1)) for _ in range(300)]

        async def all_in_flight() -> bool:
            return 'dspy_runtime_requests_in_flight{revision=""} 300.0' in await runtime.get("/metrics")

        await until(all_in_flight, "300 requests are in flight")
        assert {status for status, _, _ in await asyncio.gather(*work)} == {200}


async def test_a_client_that_leaves_frees_its_place(
    question_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    provider.provider.settings.latency_seconds = 20.0
    async with running_runtime(question_model, provider.base, tmp_path, concurrency=1) as runtime:
        with pytest.raises(TimeoutError):
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.3)) as hasty:
                await hasty.post(f"{runtime.url}/predict", json={"question": "why?", "limit": 1})

        async def place_is_free() -> bool:
            page = await runtime.get("/metrics")
            return 'requests_in_flight{revision=""} 0.0' in page and 'outcome="cancelled"' in page

        await until(place_is_free, "the place is free")


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("whole_program", [True, False])
async def test_custom_modules_with_their_code_load_in_both_formats(
    save: Save,
    provider: RunningProvider,
    tmp_path: Path,
    kind: str,
    whole_program: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import importlib

    name = f"triage_{kind}_{whole_program}".lower()
    parts = (
        {"kind": "async ", "name": "aforward", "wait": "await ", "call": ".acall"}
        if kind == "async"
        else {"kind": "", "name": "forward", "wait": "", "call": ""}
    )
    code = tmp_path / f"{name}.py"
    code.write_text(MODULE.format(**parts))
    monkeypatch.syspath_prepend(str(tmp_path))
    model = save(importlib.import_module(name).Triage(), code_paths=[str(code)], use_dspy_model_save=whole_program)
    code.unlink()
    async with running_runtime(model, provider.base, tmp_path) as runtime:
        status, body, _ = await runtime.predict(ticket="help")
        assert (status, body) == (200, {"category": "billing"})
        status, body, _ = await runtime.predict(ticket="help", urgent="perhaps")
        assert status == 422


async def test_sigterm_lets_requests_in_flight_end(
    question_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    provider.provider.settings.latency_seconds = 1.0
    async with running_runtime(question_model, provider.base, tmp_path) as runtime:
        slow = asyncio.ensure_future(runtime.predict(question="why?", limit=1))
        await until(lambda: provider.provider.calls == 1, "the request is in flight")
        runtime.process.terminate()
        assert (await slow)[0] == 200
        assert await asyncio.wait_for(runtime.process.wait(), 10) == 0


async def test_a_new_key_is_used_without_a_restart(
    question_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    async with running_runtime(question_model, provider.base, tmp_path) as runtime:
        await runtime.predict(question="why?", limit=1)
        (tmp_path / "key").write_text("sk-the-next-key-123456")

        async def new_key_is_used() -> bool:
            await runtime.predict(question="why?", limit=1)
            return "Bearer sk-the-next-key-123456" in provider.provider.keys

        await until(new_key_is_used, "the new key is used")


async def test_no_key_of_any_kind_reaches_logs_or_answers(
    question_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    provider.provider.settings.error_share = 1.0
    provider.provider.settings.error_body = {"error": {"message": f"bad key {KEY}"}}
    async with running_runtime(question_model, provider.base, tmp_path, log_level="debug") as runtime:
        _, body, _ = await runtime.predict(question="why?", limit=1)
        text = json.dumps(body) + await runtime.get("/metrics")
    text += runtime.log.read_text()
    assert KEY not in text
    assert "sk-SAVED-IN-ARTIFACT" not in text


async def test_neither_litellm_nor_pandas_nor_mlflow_is_loaded_for_a_local_model(runtime: Runtime) -> None:
    await runtime.predict(question="why?", limit=1)
    assert "pandas" not in runtime.proc("maps")
    assert runtime.memory_bytes() < 150 << 20


async def test_the_price_map_is_never_downloaded(runtime: Runtime, tmp_path: Path) -> None:
    assert "OPENAI_BASE_URL" not in runtime.proc("environ")
    await runtime.predict(question="why?", limit=1)
    sockets = await asyncio.create_subprocess_exec("ss", "-tnp", stdout=asyncio.subprocess.PIPE)
    listed = (await sockets.communicate())[0].decode()
    remote = [line.split()[4] for line in listed.splitlines() if f"pid={runtime.process.pid}," in line]
    assert remote
    assert all(address.startswith("127.0.0.1:") for address in remote)


async def test_memory_stays_flat_over_thousands_of_requests(runtime: Runtime) -> None:
    question = "why? " * 400

    async def ask(requests: int) -> None:
        for _ in range(requests // 50):
            await asyncio.gather(*(runtime.predict(question=question, limit=1) for _ in range(50)))

    await ask(1_000)
    before = runtime.memory_bytes()
    await ask(2_000)
    assert runtime.memory_bytes() - before < 4 << 20


async def test_a_model_that_does_not_load_says_why_and_where_the_kubelet_looks(
    provider: RunningProvider, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    (broken / "data").mkdir(parents=True)
    (broken / "MLmodel").write_text("flavors: {dspy: {model_path: data/model.pkl}}\n")
    (broken / "data" / "model.pkl").write_bytes(b"cos\nno_such_name_here\n.")
    message = await refusal(broken, provider.base, tmp_path)
    assert message["reason"] == "ModelLoadFailed"
    assert "no_such_name_here" in message["message"]


async def test_a_start_that_nobody_foresaw_is_told_without_its_words(provider: RunningProvider, tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / "MLmodel").write_text("flavors: {dspy: {}}\n")
    (odd / "python_env.yaml").write_text("python: [a customer\n")
    assert (await refusal(odd, provider.base, tmp_path))["reason"] == "StartFailed"
    assert "customer" not in (tmp_path / "runtime.log").read_text()


async def test_without_its_probes_a_runtime_ends(
    question_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process, *_ = await start(question_model, provider.base, tmp_path, probe_port=port)
        assert await asyncio.wait_for(process.wait(), 30) == 1, "told as a crash, not as an end that was asked for"


async def test_another_python_minor_is_refused_before_it_can_crash(provider: RunningProvider, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "MLmodel").write_text("flavors: {dspy: {}}\n")
    (other / "python_env.yaml").write_text("python: 3.8.10\n")
    assert (await refusal(other, provider.base, tmp_path))["reason"] == "PythonMismatch"


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_an_archive_of_the_operators_serves_and_a_changed_one_does_not(
    question_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    files = files_of(question_model)
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(pack(files))
    digest = digest_of({name: hashlib.sha256(content).hexdigest() for name, content in files.items()})
    async with running_runtime(archive, provider.base, tmp_path, digest=digest) as runtime:
        assert (await runtime.predict(question="why?", limit=3))[0] == 200
    (tmp_path / "model" / "written").write_text("by what ran in the container before")
    async with running_runtime(archive, provider.base, tmp_path, digest=digest) as runtime:
        assert (await runtime.predict(question="why?", limit=3))[0] == 200
    assert (await refusal(archive, provider.base, tmp_path, digest="0" * 64))["reason"] == "ModelChanged"
