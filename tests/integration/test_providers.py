"""Every provider, at a server that speaks its format and refuses what its own would: text, structured output, tools,
streams, and who it is told that calls. docs/providers.md is printed from these rows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dspy
import pytest

from dspy_runtime.lm.models import LanguageModel
from dspy_runtime.lm.providers import PROVIDERS
from dspy_runtime.settings import LMSettings
from tests.integration.runtime import RunningProvider, running_provider

KEY = "test-key-0123456789"
AWS = {"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "test-secret", "AWS_EC2_METADATA_DISABLED": "true"}


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


@dataclass(frozen=True)
class Row:
    """One provider: how it is configured, where its calls must go, and how they must say who calls."""

    model: str
    path: str
    identity: tuple[str, str] = ("Authorization", f"Bearer {KEY}")
    base: str = "/v1"
    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    structured: bool = True
    tools: bool = True

    @property
    def name(self) -> str:
        """What the test is called."""
        return self.model.partition("/")[0] + ("-responses" if self.settings.get("api") else "")


CHAT = "/v1/chat/completions"
AZURE = ("api-key", KEY)
SIGNED = ("authorization", "AWS4-HMAC-SHA256 Credential=AKIATEST/")
NO_KEY = {"api_key_file": None}
AT_GOOGLE = {"project": "shop", "location": "europe-west1"}
VERTEX = "/v1/projects/shop/locations/europe-west1/publishers"
ROWS = (
    Row("openai/gpt-4o-mini", CHAT),
    Row("openai/gpt-4o-mini", "/v1/responses", settings={"api": "responses"}),
    Row("azure/gpt-4o-mini", "/openai/v1/chat/completions", AZURE, ""),
    Row("azure/gpt-4o-mini", "/openai/v1/responses", AZURE, "", {"api": "responses"}),
    Row("azure_anthropic/claude-sonnet-4-5", "/anthropic/v1/messages", ("x-api-key", KEY), ""),
    Row("anthropic/claude-sonnet-4-5", "/v1/messages", ("x-api-key", KEY)),
    Row("gemini/gemini-2.5-flash", "/v1beta/models/gemini-2.5-flash:", ("x-goog-api-key", KEY), "/v1beta"),
    Row("vertex/gemini-2.5-flash", f"{VERTEX}/google/models/gemini-2.5-flash:", base="", settings=AT_GOOGLE),
    Row("vertex/claude-sonnet-4-5", f"{VERTEX}/anthropic/models/claude-sonnet-4-5:", base="", settings=AT_GOOGLE),
    Row(
        "bedrock/anthropic.claude-haiku-4-5-20251001-v1:0",
        "/model/anthropic.claude-haiku-4-5-20251001-v1:0/converse",
        SIGNED,
        "",
        {"region": "eu-central-1", **NO_KEY},
        AWS,
    ),
    Row(
        "bedrock_chat/mistral.mistral-large-2407-v1:0",
        "/openai/v1/chat/completions",
        SIGNED,
        "",
        {"region": "eu-central-1", **NO_KEY},
        AWS,
        structured=False,
    ),
    Row("bedrock_mantle/openai.gpt-5.6-sol", CHAT, base="", settings={"region": "eu-central-1"}),
    Row(
        "bedrock_anthropic/claude-opus-4-7",
        "/anthropic/v1/messages",
        SIGNED,
        "",
        {"region": "eu-central-1", **NO_KEY},
        AWS,
    ),
    Row("groq/openai/gpt-oss-20b", CHAT),
    Row("openrouter/openai/gpt-4o-mini", CHAT),
    Row("deepseek/deepseek-chat", CHAT),
    Row("xai/grok-4.20-beta-0309-reasoning", CHAT),
    Row("moonshot/kimi-k2.6", CHAT),
    Row("zai/glm-5", CHAT, structured=False),
    Row("mistral/mistral-large-latest", CHAT),
    Row("together_ai/deepseek-ai/DeepSeek-V3", CHAT),
    Row("fireworks_ai/accounts/fireworks/models/gpt-oss-20b", CHAT),
    Row("perplexity/anthropic/claude-opus-4-6", CHAT),
    Row("nvidia_nim/meta/llama3-70b-instruct", CHAT, structured=False, tools=False),
    Row("cerebras/gpt-oss-120b", CHAT),
    Row("databricks/databricks-claude-fable-5", CHAT),
    Row("cohere/command-a-plus-05-2026", CHAT),
    Row("vllm/Qwen/Qwen3-8B", CHAT, ("Authorization", ""), settings=NO_KEY, structured=False, tools=False),
    Row("sglang/Qwen/Qwen3-8B", CHAT, ("Authorization", ""), settings=NO_KEY, structured=False, tools=False),
    Row("ollama/llama3.2:1b", CHAT, ("Authorization", ""), settings=NO_KEY, structured=False, tools=False),
    Row("lm_studio/qwen3-8b", CHAT, ("Authorization", ""), settings=NO_KEY, structured=False, tools=False),
)
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


@dataclass
class Connected:
    """A model and what its provider has seen."""

    lm: Any
    provider: RunningProvider
    row: Row

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
        model = LanguageModel(LMSettings(**{**given, **row.settings}), lambda *_: None)
        model.engine.home = asyncio.get_running_loop()
        model.check()
        yield Connected(model.lm, provider, row)
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


@each_row
async def test_streams(connected: Connected) -> None:
    listener = dspy.streaming.StreamListener(signature_field_name="category")
    stream = dspy.streamify(dspy.Predict(Category), stream_listeners=[listener], is_async_program=True)
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
    assert connected.body()


@each_row
async def test_errors_are_what_they_stand_for(connected: Connected) -> None:
    settings = connected.provider.provider.settings
    settings.error_share = 1.0
    for status, kind in ((429, dspy.LMRateLimitError), (500, dspy.LMServerError), (401, dspy.LMError)):
        settings.error_status = status
        with pytest.raises(kind), dspy.context(lm=connected.lm):
            await dspy.Predict(Category).acall(ticket="x")
