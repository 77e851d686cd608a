"""What is the same in each prompt is rendered once, and anew when it has changed."""

from __future__ import annotations

from typing import Any

import dspy
import pytest
from dspy.adapters.base import Adapter

from dspy_runtime.rendering import MOST_KEPT, remember_rendering

QUESTION = {"question": "?"}


class Program(dspy.Module):  # type: ignore[misc]
    """A program with examples."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")
        self.answer.demos = [example("1"), example("2")]


class Tenant(dspy.ChatAdapter):  # type: ignore[misc]
    """An adapter whose task depends on more than the signature."""

    tenant = "alice"

    def format_task_description(self, signature: Any) -> str:
        """The task, for whoever asks."""
        return f"You serve {self.tenant}. {super().format_task_description(signature)}"


def example(question: str, answer: Any = "a") -> dspy.Example:
    """An example with that question."""
    return dspy.Example(question=question, answer=answer)


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which kinds of rendering DSPy itself has done."""
    done: list[str] = []
    for name in ("format_system_message", "format_demos"):
        original = getattr(Adapter, name)

        def counted(*arguments: Any, name: str = name, original: Any = original) -> Any:
            done.append(name)
            return original(*arguments)

        monkeypatch.setattr(Adapter, name, counted)
    return done


def test_the_same_is_rendered_once_and_reads_as_before(rendered: list[str]) -> None:
    program = Program()
    before = dspy.ChatAdapter().format(program.answer.signature, program.answer.demos, QUESTION)
    remember_rendering(program)
    rendered.clear()
    for _ in range(3):
        assert dspy.ChatAdapter().format(program.answer.signature, program.answer.demos, QUESTION) == before
    assert sorted(rendered) == ["format_demos", "format_system_message"]


def test_what_changed_is_rendered_anew(rendered: list[str]) -> None:
    program = Program()
    remember_rendering(program)
    predictor, adapter = program.answer, dspy.ChatAdapter()
    adapter.format(predictor.signature, predictor.demos, QUESTION)
    predictor.demos[0]["answer"] = "another"
    assert "another" in str(adapter.format(predictor.signature, predictor.demos, QUESTION))
    predictor.demos.append(example("3"))
    assert len(adapter.format(predictor.signature, predictor.demos, QUESTION)) == 8
    other = predictor.signature.with_instructions("Another task.")
    assert "Another task." in str(adapter.format(other, predictor.demos, QUESTION))
    predictor.demos[0]["answer"] = parts = ["a"]
    adapter.format(predictor.signature, predictor.demos, QUESTION)
    parts.append("appended")
    assert "appended" in str(adapter.format(predictor.signature, predictor.demos, QUESTION))


def test_a_message_that_is_changed_changes_no_other_request(rendered: list[str]) -> None:
    program = Program()
    remember_rendering(program)
    adapter, predictor = dspy.ChatAdapter(), program.answer
    adapter.format_demos(predictor.signature, predictor.demos)[0]["content"] = "changed"
    assert "changed" not in str(adapter.format_demos(predictor.signature, predictor.demos))


def test_an_adapter_of_the_programs_own_is_left_alone(rendered: list[str]) -> None:
    program, adapter = Program(), Tenant()
    remember_rendering(program)
    adapter.format(program.answer.signature, [], QUESTION)
    adapter.tenant = "bob"
    assert "You serve bob" in str(adapter.format(program.answer.signature, [], QUESTION))


def test_examples_that_come_with_a_request_are_not_kept(rendered: list[str]) -> None:
    program = Program()
    remember_rendering(program)
    rendered.clear()
    for _ in range(MOST_KEPT):
        dspy.ChatAdapter().format_demos(program.answer.signature, [example("a customer's")])
    assert len(rendered) == MOST_KEPT
