"""What is the same in each prompt of a predictor is rendered once: its task, and its examples, of which two megabytes
are most of a request's CPU."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

MOST_KEPT = 64
"""Renderings of one kind. A program has one for each of its predictors."""
_LASTING = (str, int, float, bool, type(None))
"""Types of values that nobody can change in their place."""


def remember_rendering(adapter: Any) -> Any:
    """The adapter, which renders the task and the examples of a predictor anew only when they have changed."""
    system, examples = adapter.format_system_message, adapter.format_demos
    tasks, shots = _Kept(), _Kept()

    def format_system_message(signature: Any) -> str:
        key = (id(signature), signature.__doc__)
        return str(tasks.get(key, signature, lambda: system(signature)))

    def format_demos(signature: Any, demos: list[Any]) -> list[dict[str, Any]]:
        values = [list(demo.items()) for demo in demos]
        if not demos or not all(type(value) in _LASTING for items in values for _, value in items):
            return list(examples(signature, demos))
        key = (id(signature), *((len(items), *(id(part) for item in items for part in item)) for items in values))
        return [dict(message) for message in shots.get(key, (signature, values), lambda: examples(signature, demos))]

    adapter.format_system_message, adapter.format_demos = format_system_message, format_demos
    return adapter


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
