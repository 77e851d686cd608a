"""What is the same in each prompt of a predictor is rendered once: its task, and its examples, of which two megabytes
are most of a request's CPU.

Only for adapters of DSPy itself, which render by the signature alone, and for examples that the program carries: those
that come with a request are its own, and gone with it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import dspy
from dspy.adapters.base import Adapter

MOST_KEPT = 64
"""Renderings of one kind. A program has one for each of its predictors."""
_PLAIN = (dspy.ChatAdapter, dspy.JSONAdapter, dspy.XMLAdapter)
_LASTING = (str, int, float, bool, type(None))
"""Types of values that nobody can change in their place."""


def remember_rendering(program: Any) -> None:
    """From now on DSPy renders the task and the examples of the program's predictors anew only when they have
    changed."""
    lists = {id(predictor.demos): predictor.demos for predictor in program.predictors()}
    system, examples = Adapter.format_system_message, Adapter.format_demos
    tasks, shots = _Kept(), _Kept()

    def format_system_message(adapter: Any, signature: Any) -> str:
        if type(adapter) not in _PLAIN:
            return str(system(adapter, signature))
        key = (type(adapter), id(signature), signature.__doc__)
        return str(tasks.get(key, signature, lambda: system(adapter, signature)))

    def format_demos(adapter: Any, signature: Any, demos: list[Any]) -> list[dict[str, Any]]:
        if type(adapter) not in _PLAIN or not demos or lists.get(id(demos)) is not demos:
            return list(examples(adapter, signature, demos))
        values = [list(demo.items()) for demo in demos]
        if not all(type(value) in _LASTING for items in values for _, value in items):
            return list(examples(adapter, signature, demos))
        parts = ((len(items), *(id(part) for item in items for part in item)) for items in values)
        key = (type(adapter), id(signature), *parts)
        found = shots.get(key, (signature, values), lambda: examples(adapter, signature, demos))
        return [dict(message) for message in found]

    Adapter.format_system_message, Adapter.format_demos = format_system_message, format_demos


class _Kept:
    """The renderings that were used last, by the identities of what was rendered."""

    def __init__(self) -> None:
        self._found: OrderedDict[Hashable, tuple[Any, Any]] = OrderedDict()

    def get(self, key: Hashable, named: Any, render: Callable[[], Any]) -> Any:
        """What was rendered. `named` is kept as well: no other object can have the identity of what is in a key."""
        found = self._found.pop(key, None) or (named, render())
        self._found[key] = found
        while len(self._found) > MOST_KEPT:
            self._found.popitem(last=False)
        return found[1]
