"""How DSPy would call a program: what of it runs, whether that is awaited, and what it takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def is_async(program: Any) -> bool:
    """True when the program can be awaited, and is the same then: one that replaces only the `forward` of its base
    class, such as dspy.CodeAct, still has the base's `aforward`; and one that replaces `__call__` is called by it."""
    if _is_own(program, "__call__") and not _is_own(program, "acall"):
        return False
    inherits = _depth(program, "aforward") > _depth(program, "forward")
    return _awaits_forward(program) or (hasattr(program, "aforward") and not inherits)


def awaitable(program: Any) -> Callable[..., Any]:
    """What is awaited of a program that is_async: a `forward` that is a coroutine is awaited as it stands."""
    found: Callable[..., Any] = program if _awaits_forward(program) else program.acall
    return found


def called(program: Any) -> tuple[Any, list[inspect.Parameter]]:
    """The function of a program that runs, and its parameters; None for a program without one."""
    name = "aforward" if is_async(program) and not _awaits_forward(program) else "forward"
    function = _plain(program, name)
    if function is None:
        return None, []
    is_bound = name in vars(program) or isinstance(inspect.getattr_static(program, name), staticmethod)
    return function, list(inspect.signature(function).parameters.values())[0 if is_bound else 1 :]


def _awaits_forward(program: Any) -> bool:
    """True for a `forward` that is a coroutine."""
    return inspect.iscoroutinefunction(_plain(program, "forward"))


def _plain(program: Any, name: str) -> Any:
    """A method as it was written, without the warning that DSPy has for whoever asks for `forward`."""
    found = inspect.getattr_static(program, name, None)
    return found.__func__ if isinstance(found, staticmethod | classmethod) else found


def _is_own(program: Any, name: str) -> bool:
    """True for a method that is no code of DSPy's."""
    function = _plain(program, name)
    return function is not None and not str(getattr(function, "__module__", "")).startswith("dspy.")


def _depth(program: Any, name: str) -> int:
    """How far from the program itself a method is defined."""
    places = [program, *type(program).__mro__]
    return next((depth for depth, place in enumerate(places) if name in vars(place)), len(places))
