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
    if inspect.iscoroutinefunction(_plain(program, "forward")):
        return True
    return _depth(program, "aforward") <= _depth(program, "forward") and hasattr(program, "aforward")


def awaitable(program: Any) -> Callable[..., Any]:
    """What is awaited of a program that is_async: a `forward` that is a coroutine is awaited as it stands."""
    found: Callable[..., Any] = program if inspect.iscoroutinefunction(_plain(program, "forward")) else program.acall
    return found


def called(program: Any) -> tuple[Any, list[inspect.Parameter]]:
    """The function of a program that runs, and its parameters; None for a program without one."""
    by_await = is_async(program) and not inspect.iscoroutinefunction(_plain(program, "forward"))
    name = "aforward" if by_await else "forward"
    function = _plain(program, name)
    if function is None:
        return None, []
    is_bound = name in vars(program) or isinstance(inspect.getattr_static(program, name), staticmethod)
    return function, list(inspect.signature(function).parameters.values())[0 if is_bound else 1 :]


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
