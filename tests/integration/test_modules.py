"""Every module and type of DSPy is served once, as its author ran it: from both formats of MLflow where they differ."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import json
import sys
import warnings
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.integration.gateway import free_port
from tests.integration.runtime import RunningProvider, running_provider, running_runtime
from tests.integration.test_runtime import Save, save

__all__ = ["save"]

HERE = Path(__file__).parent
CODE = HERE / "dspy_programs.py"
SAID = "A helpful answer."
TOOL = {"next_tool_name": "search", "next_tool_args": '{"query": "Rome"}'}
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAAC"
TEXT = "data:text/plain;base64," + base64.b64encode(b"hello").decode()
ORDER: dict[str, Any] = {"customer": None, "lines": [{"article": "tea", "count": 2}]}
SUBMIT = '{"tool_calls": [{"name": "submit", "args": {"answer": "submitted"}}]}'
TYPED = {
    "total": "2",
    "accepted": "true",
    "first": '{"article": "tea", "count": 2}',
    "tags": '["a", "b"]',
    "label": "rush",
}
QUESTION = {"question": "?"}

CASES: dict[str, tuple[dict[str, str], dict[str, Any], dict[str, Any]]] = {
    "Predict": ({}, QUESTION, {"answer": SAID}),
    "ChainOfThought": ({}, QUESTION, {"reasoning": SAID, "answer": SAID}),
    "ReAct": (TOOL, QUESTION, {"answer": SAID}),
    "ReActAsync": ({**TOOL, "next_tool_name": "search_later"}, QUESTION, {"answer": SAID}),
    "ReActV2": ({"tool_calls": SUBMIT}, QUESTION, {"answer": "submitted"}),
    "NativeTools": ({}, QUESTION, {"found": ["a passage on Rome"]}),
    "McpTools": (TOOL, QUESTION, {"answer": SAID}),
    "ProgramOfThought": ({"generated_code": "```python\nSUBMIT({'answer': 6 * 7})\n```"}, QUESTION, {"answer": SAID}),
    "CodeAct": (
        {"generated_code": "```python\nprint(search('Rome'))\n```", "finished": "true"},
        QUESTION,
        {"answer": SAID},
    ),
    "RLM": (
        {"code": "```python\nSUBMIT(answer=llm_query('how long?') + str(len(context)))\n```"},
        {"context": "long", **QUESTION},
        {"answer": "{}4"},
    ),
    "KNNFewShot": ({}, {"question": "eee?"}, {"answer": SAID}),
    "Rag": ({}, {"question": "eee?"}, {"context": ["eee is the second"], "answer": SAID}),
    "RetrieverOfSettings": ({}, QUESTION, {"context": ["passage 0 on ?", "passage 1 on ?"], "answer": SAID}),
    "Image": ({}, {"picture": {"url": PIXEL}, **QUESTION}, {"answer": SAID}),
    "Audio": ({}, {"sound": {"data": "UklGRg==", "audio_format": "wav"}, **QUESTION}, {"answer": SAID}),
    "File": ({}, {"file": {"file_data": TEXT}, **QUESTION}, {"answer": SAID}),
    "History": (
        {},
        {"history": {"messages": [{"question": "earlier?", "answer": "earlier."}]}, **QUESTION},
        {"answer": SAID},
    ),
    "Typed": (
        TYPED,
        {"order": ORDER, "channel": "shop", "notes": ["n"], "limit": None},
        {"total": 2, "accepted": True, "first": ORDER["lines"][0], "tags": ["a", "b"], "label": "rush"},
    ),
    "Overrides": ({}, QUESTION, {"answer": f"overridden: {SAID}"}),
    "Unannotated": ({}, {"question": 1, "more": [1]}, {"answer": SAID, "more": {"more": [1]}}),
}
"""By program: what the model says in which field, a request, and fields of its answer."""
BY_RESPONSES = ("Audio", "File")
"""OpenAI's Chat Completions have no place for these in DSPy's engine."""
PROMPTS = {
    "ReAct": "a passage on Rome",
    "ReActAsync": "a later passage on Rome",
    "McpTools": "a passage of MCP on Rome",
    "ProgramOfThought": "42",
    "CodeAct": "a passage on Rome",
    "KNNFewShot": "e?",
    "Rag": "eee is the second",
    "Image": PIXEL,
    "Audio": "UklGRg==",
    "History": "earlier?",
}
"""By program: words that its last prompt holds, so that it did what it is there for."""

Make = Callable[[str], Path]


@pytest.fixture
async def retriever() -> AsyncIterator[str]:
    """A server of passages, in the manner of ColBERT's."""

    async def passages(request: web.Request) -> web.Response:
        found = [{"text": f"passage {number} on {request.query['query']}"} for number in range(int(request.query["k"]))]
        return web.json_response({"topk": found})

    app = web.Application()
    app.add_routes([web.get("/", passages)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield f"http://127.0.0.1:{port}"
    await runner.cleanup()


@pytest.fixture
async def provider() -> AsyncIterator[RunningProvider]:
    async with running_provider() as running:
        yield running


@pytest.mark.parametrize("name", CASES)
async def test_a_module_serves_as_it_ran(
    save: Save, provider: RunningProvider, retriever: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import dspy

    monkeypatch.setenv("MCP_COMMAND", sys.executable)
    monkeypatch.setenv("MCP_SCRIPT", str(HERE / "mcp_tools.py"))
    module = _programs()
    answers, request, expected = CASES[name]
    with warnings.catch_warnings(), dspy.context(rm=dspy.ColBERTv2(url=f"{retriever}/")):
        warnings.simplefilter("ignore")
        model = save(module.PROGRAMS[name](), code_paths=[str(CODE)])
    settings = provider.provider.settings
    settings.answers = {**settings.answers, **answers}
    settings.tool_arguments = {"query": "Rome"}
    lm = {"model": "openai/gpt-4o-mini", "api": "responses" if name in BY_RESPONSES else "chat"}
    async with running_runtime(model, provider.base, tmp_path, lm=lm) as runtime:
        answered = await asyncio.gather(*(runtime.predict(**request) for _ in range(3)))
        for status, body, _ in answered:
            assert status == 200, runtime.log.read_text()
            assert {field: body.get(field) for field in expected} == expected
    assert provider.provider.last is not None
    assert PROMPTS.get(name, "") in str(provider.provider.last.body)


@pytest.mark.parametrize("log_messages", [False, True])
async def test_what_dspy_logs_holds_words_of_a_model_only_where_they_are_wanted(
    save: Save, provider: RunningProvider, tmp_path: Path, log_messages: bool
) -> None:
    model = save(_programs().PROGRAMS["ReActV2"](), code_paths=[str(CODE)])
    provider.provider.settings.answers = {"tool_calls": "a customer's name"}
    async with running_runtime(model, provider.base, tmp_path, log_messages=log_messages) as runtime:
        assert (await runtime.predict(question="?"))[0] == 502
        lines = [json.loads(line) for line in runtime.log.read_text().splitlines()]
    told = next(line for line in lines if line["logger"] == "dspy.predict.react_v2")
    assert told["event"].startswith("Ending ReActV2 loop after parse failure")
    assert told["where"].startswith("react_v2.py:")
    (failed,) = [line for line in lines if line["event"] == "A request failed"]
    assert ("messages" in failed) is log_messages
    assert ("a customer's name" in json.dumps(lines)) is log_messages


def _programs() -> Any:
    """The programs as a module of their own name, which is how the artifact's code has it."""
    found = sys.modules.get(CODE.stem)
    if found is None:
        spec = importlib.util.spec_from_file_location(CODE.stem, CODE)
        assert spec is not None
        assert spec.loader is not None
        found = sys.modules[CODE.stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found)
    return found
