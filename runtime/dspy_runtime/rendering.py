"""What is the same in each prompt of a predictor is rendered once: its task, and its examples, of which two megabytes
are most of a request's CPU."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

MOST_KEPT = 64
"""Renderings of one kind. A program has one for each of its predictors."""


def remember_rendering(adapter: Any) -> Any:
    """The adapter, which renders the task and the examples of a predictor anew only when they have changed."""
    system, examples = adapter.format_system_message, adapter.format_demos
    tasks, shots = _Kept(), _Kept()

    def format_system_message(signature: Any) -> str:
        key = (id(signature), signature.__doc__)
        return str(tasks.get(key, signature, lambda: system(signature)))

    def format_demos(signature: Any, demos: list[Any]) -> list[dict[str, Any]]:
        if not demos:
            return list(examples(signature, demos))
        values = [item for demo in demos for item in demo.items()]
        key = (id(signature), *(id(part) for item in values for part in item))
        return [dict(message) for message in shots.get(key, (signature, values), lambda: examples(signature, demos))]

    adapter.format_system_message, adapter.format_demos = format_system_message, format_demos
    return adapter


class _Kept:
    """The latest renderings, by the identities of what was rendered."""

    def __init__(self) -> None:
        self._found: OrderedDict[Hashable, tuple[Any, Any]] = OrderedDict()

    def get(self, key: Hashable, named: Any, render: Callable[[], Any]) -> Any:
        """What was rendered. `named` is kept as well: no other object can have the identity of what is in a key."""
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = (named, render())
            while len(self._found) > MOST_KEPT:
                self._found.popitem(last=False)
        return found[1]
