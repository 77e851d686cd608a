"""What is the same in each prompt is rendered once, and anew when it has changed."""

from __future__ import annotations

from typing import Any

import dspy

from dspy_runtime.rendering import MOST_KEPT, remember_rendering

SIGNATURE = dspy.Signature("question -> answer")


class Counting(dspy.ChatAdapter):  # type: ignore[misc]
    """An adapter that counts its work."""

    rendered = tasks = 0

    def format_system_message(self, signature: Any) -> str:
        """As any adapter does."""
        self.tasks += 1
        return str(super().format_system_message(signature))

    def format_demos(self, signature: Any, demos: list[Any]) -> list[dict[str, Any]]:
        """As any adapter does."""
        self.rendered += 1
        return list(super().format_demos(signature, demos))


def example(question: str) -> dspy.Example:
    """An example with that question."""
    return dspy.Example(question=question, answer="a")


def test_the_same_examples_are_rendered_once_and_read_as_before() -> None:
    adapter, demos = remember_rendering(Counting()), [example("1"), example("2")]
    messages = [adapter.format(SIGNATURE, demos, {"question": "?"}) for _ in range(3)]
    assert (adapter.rendered, adapter.tasks) == (1, 1)
    assert messages == [dspy.ChatAdapter().format(SIGNATURE, demos, {"question": "?"})] * 3
    assert adapter.format(SIGNATURE, list(demos), {"question": "!"})[:-1] == messages[0][:-1]
    assert adapter.rendered == 1


def test_what_changed_is_rendered_anew() -> None:
    adapter, demos = remember_rendering(Counting()), [example("1")]
    adapter.format(SIGNATURE, demos, {"question": "?"})
    demos[0]["answer"] = "another"
    assert "another" in str(adapter.format(SIGNATURE, demos, {"question": "?"}))
    demos.append(example("2"))
    assert len(adapter.format(SIGNATURE, demos, {"question": "?"})) == 6
    other = SIGNATURE.with_instructions("Another task.")
    assert "Another task." in str(adapter.format(other, demos, {"question": "?"}))
    assert adapter.rendered == 4


def test_a_message_that_is_changed_changes_no_other_request() -> None:
    adapter, demos = remember_rendering(Counting()), [example("1")]
    adapter.format_demos(SIGNATURE, demos)[0]["content"] = "changed"
    assert "changed" not in str(adapter.format_demos(SIGNATURE, demos))


def test_few_renderings_are_kept() -> None:
    adapter = remember_rendering(Counting())
    demos = [[example(str(number))] for number in range(MOST_KEPT + 1)]
    for each in [*demos, demos[0]]:
        adapter.format_demos(SIGNATURE, each)
    assert adapter.rendered == MOST_KEPT + 2
