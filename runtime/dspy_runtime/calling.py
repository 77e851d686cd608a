"""How DSPy would call a program: awaited, or not."""

from __future__ import annotations

from typing import Any


def is_async(program: Any) -> bool:
    """True when the program can be awaited, and is the same then: one that replaces only the `forward` of its base
    class, such as dspy.CodeAct, still has the base's `aforward`."""
    return _depth(program, "aforward") <= _depth(program, "forward") and hasattr(program, "aforward")


def _depth(program: Any, name: str) -> int:
    """How far from the program itself a method is defined."""
    places = [program, *type(program).__mro__]
    return next((depth for depth, place in enumerate(places) if name in vars(place)), len(places))
