"""Examples of a prompt are rendered once, not for each request: two megabytes of them are most of a request's CPU."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

MOST_KEPT = 64
"""Renderings of one adapter. A program has one for each of its predictors."""
Messages = list[dict[str, Any]]
Render = Callable[[Any, list[Any]], Messages]


def remember_examples(adapter: Any) -> Any:
    """The adapter, which renders the examples of a predictor anew only when they have changed."""
    adapter.format_demos = _remembered(adapter.format_demos)
    return adapter


def _remembered(render: Render) -> Render:
    kept: OrderedDict[tuple[Any, ...], tuple[Any, list[Any], Messages]] = OrderedDict()

    def format_demos(signature: Any, demos: list[Any]) -> Messages:
        if not demos:
            return render(signature, demos)
        key = (id(signature), *(id(part) for demo in demos for item in demo.items() for part in item))
        found = kept.get(key)
        if found is None:
            # What a key names is kept as well: no other object can have its identity.
            values = [item for demo in demos for item in demo.items()]
            found = kept[key] = (signature, values, render(signature, demos))
            if len(kept) > MOST_KEPT:
                kept.popitem(last=False)
        return [dict(message) for message in found[2]]

    return format_demos
