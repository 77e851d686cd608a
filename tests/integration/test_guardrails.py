"""Checks around a program: what they let through, what they block, flag or mask, and what becomes of one that fails."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.runtime import RunningProvider, Runtime, refusal, running_provider, running_runtime
from tests.integration.test_runtime import Save, save
from tests.integration.test_streams import listen

__all__ = ["save"]

CODE = """
import asyncio
import re
import time

import dspy


class Echo(dspy.Module):
    def __init__(self):
        super().__init__()
        self.answer = dspy.Predict("question: str -> answer: str")

    async def aforward(self, question: str):
        found = await self.answer.acall(question=question)
        return dspy.Prediction(answer=found.answer, asked=question)


def without_cards(fields):
    found = {name: re.sub("[0-9]{16}", "****", text) for name, text in fields.items()}
    return found if found != fields else None


async def polite(fields):
    await asyncio.sleep(0)
    return "rude" if "rude" in fields["answer"] else None


def late(fields):
    time.sleep(3)


def fails(fields):
    raise RuntimeError(fields["question"])
"""
CARD = "4111111111111111"


@pytest.fixture
async def provider() -> AsyncIterator[RunningProvider]:
    async with running_provider() as running:
        yield running


@pytest.fixture
def echo(save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    code = tmp_path / "guarded_program.py"
    code.write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return save(importlib.import_module("guarded_program").Echo(), code_paths=[str(code)])


async def results(runtime: Runtime, guardrail: str) -> dict[str, int]:
    found = {}
    for line in (await runtime.get("/metrics")).splitlines():
        if line.startswith(f'dspy_runtime_guardrail_checks_total{{guardrail="{guardrail}"'):
            found[line.partition('result="')[2].partition('"')[0]] = int(float(line.split()[-1]))
    return found


async def test_what_a_pattern_finds_is_blocked_before_any_call_or_only_flagged(
    echo: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    short = {"properties": {"question": {"maxLength": 20}}}
    guardrails = [
        {"name": "cards", "target": "Input", "pattern": "[0-9]{16}"},
        {"name": "short", "target": "Input", "action": "Flag", "match": short},
    ]
    async with running_runtime(echo, provider.base, tmp_path, guardrails=guardrails) as runtime:
        status, body, headers = await runtime.predict(question=f"my card is {CARD}")
        assert (status, body["error"]["code"], headers["x-dspy-outcome"]) == (422, "blocked", "client_error")
        assert (headers["x-dspy-flags"], body["error"]["message"].split()[-1]) == ("cards", "cards")
        assert (provider.provider.calls, CARD in str(body)) == (0, False)
        status, body, headers = await runtime.predict(question="a question of many words")
        assert (status, headers["x-dspy-flags"]) == (200, "short")
        status, _, headers = await runtime.predict(question="why?")
        assert (status, headers.get("x-dspy-flags")) == (200, None)
        assert await results(runtime, "cards") == {"Block": 1, "Pass": 2}
        assert await results(runtime, "short") == {"Flag": 1, "Pass": 1}


async def test_functions_of_the_version_mask_what_goes_in_and_hold_back_what_comes_out(
    echo: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    guardrails = [
        {"name": "masked", "target": "Input", "action": "Mask", "function": "guarded_program:without_cards"},
        {"name": "polite", "target": "Output", "function": "guarded_program:polite"},
    ]
    async with running_runtime(echo, provider.base, tmp_path, guardrails=guardrails) as runtime:
        status, body, headers = await runtime.predict(question=f"my card is {CARD}")
        assert (status, body["asked"], headers["x-dspy-flags"]) == (200, "my card is ****", "masked")
        provider.provider.settings.answers = {"answer": "a rude answer"}
        status, body, headers = await runtime.predict(question="why?")
        assert (status, body["error"]["code"], headers["x-dspy-outcome"]) == (502, "blocked", "program_error")
        assert (headers["x-dspy-flags"], "rude" in str(body["error"]["message"])) == ("polite", False)
        heard = await listen(runtime.url, question="why?")
        assert [name for name, _ in heard.events] == ["json"], "no part of it was told before"
        assert await results(runtime, "masked") == {"Mask": 1, "Pass": 2}


async def test_an_answer_may_be_masked(echo: Path, provider: RunningProvider, tmp_path: Path) -> None:
    provider.provider.settings.answers = {"answer": f"the card {CARD}"}
    guardrail = {"name": "masked", "target": "Output", "action": "Mask", "function": "guarded_program:without_cards"}
    async with running_runtime(echo, provider.base, tmp_path, guardrails=[guardrail]) as runtime:
        _, body, headers = await runtime.predict(question="why?")
        assert (body, headers["x-dspy-flags"]) == ({"answer": "the card ****", "asked": "why?"}, "masked")


@pytest.mark.parametrize("function", ["late", "fails"])
async def test_one_that_fails_or_is_late_lets_nothing_through_and_says_no_value(
    echo: Path, provider: RunningProvider, tmp_path: Path, function: str
) -> None:
    guardrail = {"name": "own", "target": "Input", "function": f"guarded_program:{function}", "timeout_seconds": 0.2}
    async with running_runtime(echo, provider.base, tmp_path, guardrails=[guardrail]) as runtime:
        status, body, _ = await runtime.predict(question="a secret question")
        assert (status, body["error"]["code"]) == (422, "blocked")
        assert await results(runtime, "own") == {"Failed": 1}
        assert "a secret question" not in runtime.log.read_text()


@pytest.mark.parametrize(
    "guardrail",
    [
        {"function": "guarded_program:nowhere"},
        {"function": "nowhere:at_all"},
        {"function": "not-installed"},
        {"pattern": "(?<=a)b"},
        {"match": {"type": "nothing"}},
        {"action": "Mask", "pattern": "x"},
        {},
    ],
)
async def test_one_that_cannot_be_ends_the_start(
    echo: Path, provider: RunningProvider, tmp_path: Path, guardrail: dict[str, Any]
) -> None:
    told = await refusal(echo, provider.base, tmp_path, guardrails=[{"name": "own", "target": "Input", **guardrail}])
    assert (told["reason"], "own" in told["message"]) == ("GuardrailInvalid", True)
