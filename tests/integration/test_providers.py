"""Every provider, at a server that speaks its format and refuses what its own would: text, structured output, tools,
streams, and who it is told that calls. docs/providers.md is printed from these rows."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.adapters.baml_adapter import BAMLAdapter

from dev.standin.providers import KEY, ROWS, Row
from dspy_runtime.lm.endpoint import Model, Unobserved
from dspy_runtime.lm.models import LanguageModel
from dspy_runtime.lm.providers import PROVIDERS
from dspy_runtime.settings import LMSettings
from tests.integration.runtime import RunningProvider, running_provider


class Category(dspy.Signature):
    """Sorts a ticket."""

    ticket: str = dspy.InputField()
    category: str = dspy.OutputField()
    urgency: int = dspy.OutputField()


class Calls(dspy.Signature):
    """Chooses tools."""

    question: str = dspy.InputField()
    tools: list[dspy.Tool] = dspy.InputField()
    calls: dspy.ToolCalls = dspy.OutputField()


def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


@dataclass
class Connected:
    """A model and what its provider has seen."""

    lm: Any
    provider: RunningProvider
    row: Row
    usages: list[Any]

    def body(self) -> dict[str, Any]:
        """The last request, of which address and identity were right."""
        seen = self.provider.provider.last
        assert seen is not None
        assert seen.path.startswith(self.row.path)
        name, value = self.row.identity
        headers = {key.lower(): each for key, each in seen.headers.items()}
        assert headers.get(name.lower(), "").startswith(value)
        assert value or "authorization" not in headers
        return seen.body


class Usages(Unobserved):
    """Those of all answers."""

    def __init__(self) -> None:
        self.usages: list[Any] = []

    def answered(self, model: Model, usage: Any) -> None:
        self.usages.append(usage)


@pytest.fixture
async def connected(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Connected]:
    for name, value in row.environment.items():
        monkeypatch.setenv(name, value)
    key = tmp_path / "key"
    key.write_text(KEY)
    async with running_provider() as provider:
        provider.provider.settings.answers = {"category": "billing", "urgency": "3"}
        provider.provider.settings.tool_arguments = {"city": "Rome"}
        base = provider.base.removesuffix("/v1") + row.base
        given: dict[str, Any] = {"model": row.model, "api_base": base, "api_key_file": key, "max_retries": 0}
        seen = Usages()
        model = LanguageModel(LMSettings(**{**given, **row.settings}), seen)
        model.engine.home = asyncio.get_running_loop()
        model.check()
        yield Connected(model.lm, provider, row, seen.usages)
        await model.engine.aclose()


def test_there_is_a_row_for_every_provider() -> None:
    named = {row.model.partition("/")[0] for row in ROWS}
    assert set(PROVIDERS) - named == {"azure_ai", "vertex_anthropic"}  # other names of rows above


@each_row
async def test_text(connected: Connected) -> None:
    with dspy.context(lm=connected.lm, adapter=dspy.ChatAdapter()):
        awaited = await dspy.Predict(Category).acall(ticket="I was charged twice")
        called = await asyncio.to_thread(dspy.Predict(Category), ticket="I was charged twice")
    assert [awaited.category, awaited.urgency] == [called.category, called.urgency] == ["billing", 3]
    assert [usage.input_tokens > 0 for usage in connected.usages] == [True, True]
    assert connected.body()


@each_row
async def test_structured_output(connected: Connected) -> None:
    with dspy.context(lm=connected.lm, adapter=dspy.JSONAdapter()):
        answer = await dspy.Predict(Category).acall(ticket="I was charged twice")
    assert (answer.category, answer.urgency) == ("billing", 3)
    body = json.dumps(connected.body())
    assert ("additionalProperties" in body or '"properties"' in body) == connected.row.structured


@each_row
async def test_tools(connected: Connected) -> None:
    adapter = dspy.ChatAdapter(use_native_function_calling=True)
    with dspy.context(lm=connected.lm, adapter=adapter):
        if not connected.row.tools:
            assert not connected.lm.supports_function_calling
            return
        answer = await dspy.Predict(Calls).acall(question="How is it in Rome?", tools=[dspy.Tool(weather)])
    (call,) = answer.calls.tool_calls
    assert (call.name, call.args) == ("weather", {"city": "Rome"})
    assert "weather" in json.dumps(connected.body())


@pytest.mark.parametrize("awaited", [True, False], ids=["awaited", "in a thread"])
@each_row
async def test_streams(connected: Connected, awaited: bool) -> None:
    listener = dspy.streaming.StreamListener(signature_field_name="category")
    stream = dspy.streamify(dspy.Predict(Category), stream_listeners=[listener], is_async_program=awaited)
    pieces, answer = [], None
    with dspy.context(lm=connected.lm, adapter=dspy.ChatAdapter()):
        async for each in stream(ticket="I was charged twice"):
            if isinstance(each, dspy.Prediction):
                answer = each
            elif isinstance(each, dspy.streaming.StreamResponse):
                pieces.append(each.chunk)
    assert "".join(pieces).strip() == "billing"
    assert answer is not None
    assert answer.urgency == 3
    assert connected.usages[0].output_tokens > 0
    assert connected.body()


@each_row
async def test_errors_are_what_they_stand_for(connected: Connected) -> None:
    settings = connected.provider.provider.settings
    settings.error_share = 1.0
    for status, kind in ((429, dspy.LMRateLimitError), (500, dspy.LMServerError), (401, dspy.LMError)):
        settings.error_status = status
        with pytest.raises(kind), dspy.context(lm=connected.lm):
            await dspy.Predict(Category).acall(ticket="x")


async def test_connections_are_kept_above_a_thousand_descriptors(tmp_path: Path) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with contextlib.ExitStack() as held:
        for _ in range(1_100):
            held.enter_context(open(os.devnull))  # noqa: ASYNC230 what counts is its number
        async with running_provider() as provider:
            model = LanguageModel(LMSettings(model="openai/standin", api_base=provider.base), Unobserved())
            model.engine.home = asyncio.get_running_loop()
            with dspy.context(lm=model.lm):
                for _ in range(20):
                    await dspy.Predict("question -> answer").acall(question="?")
            assert len(provider.provider.peers) == 1
            await model.engine.aclose()


ADAPTERS = {
    "chat": dspy.ChatAdapter(),
    "native tools": dspy.ChatAdapter(use_native_function_calling=True),
    "json": dspy.JSONAdapter(),
    "xml": dspy.XMLAdapter(),
    "baml": BAMLAdapter(),
}
PARAMETERS: dict[str, dict[str, Any]] = {
    "openai": {"temperature": 0.3, "max_tokens": 50, "stop": ["END"], "seed": 1},
    "anthropic": {"max_tokens": 99, "top_k": 3},
    "groq": {"reasoning_effort": "low"},
    "deepseek": {"reasoning_effort": "high"},
    "vllm": {"top_k": 3, "max_tokens": 9},
}


class Reasoned(dspy.Signature):
    """Answers with its reasons."""

    question: str = dspy.InputField()
    thoughts: dspy.Reasoning = dspy.OutputField()
    answer: str = dspy.OutputField()


@pytest.mark.parametrize("row", [row for row in ROWS if row.plain], ids=lambda row: row.name)
@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_the_request_is_that_of_plain_dspy(row: Row, adapter: str, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(KEY)
    parameters = PARAMETERS.get(row.provider, {})
    inputs: dict[Any, dict[str, Any]] = {
        Category: {"ticket": "I was charged twice"},
        Calls: {"question": "?", "tools": [dspy.Tool(weather)]},
        Reasoned: {"question": "?"},
    }
    async with running_provider() as provider:
        base = provider.base.removesuffix("/v1") + row.base
        api = row.settings.get("api", "chat")
        settings = LMSettings(model=row.model, api=api, api_base=base, api_key_file=key, parameters=parameters)
        ours = LanguageModel(settings, Unobserved())
        plain = dspy.LM(
            row.model,
            model_type=api,
            api_key=KEY,
            api_base=base,
            cache=False,
            num_retries=0,
            engine="lm15",
            **parameters,
        )
        sent: dict[Any, list[Any]] = {ours.lm: [], plain: []}
        for lm, bodies in sent.items():
            for signature, given in inputs.items():
                with dspy.context(lm=lm, adapter=ADAPTERS[adapter]), contextlib.suppress(dspy.DSPyError):
                    await dspy.Predict(signature).acall(**given)
                bodies.append(provider.provider.last)
        await ours.engine.aclose()
        await plain.aclose()
    assert [each.body for each in sent[ours.lm]] == [each.body for each in sent[plain]]
    assert [each.path for each in sent[ours.lm]] == [each.path for each in sent[plain]]
