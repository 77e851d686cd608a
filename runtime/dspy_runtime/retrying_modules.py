"""`dspy.BestOfN` and `dspy.Refine` count their failures down in the module that all requests share: after some of them
the first failure of any request ends it. Here each request counts its own."""

from __future__ import annotations

from typing import Any

import dspy

from dspy_runtime.lm.scope import SCOPE


class _FailCount:
    """Stands for the attribute `fail_count` of a class."""

    def __get__(self, module: Any, owner: type | None = None) -> Any:
        if module is None:
            return self
        scope, kept = SCOPE.get(), vars(module)["fail_count"]
        return scope.memory.get(id(module), kept) if scope else kept

    def __set__(self, module: Any, value: int) -> None:
        scope = SCOPE.get()
        if scope is not None and "fail_count" in vars(module):
            scope.memory[id(module)] = value
        else:
            vars(module)["fail_count"] = value


def count_by_request() -> None:
    """From now on what a request uses up is its own."""
    for kind in (dspy.BestOfN, dspy.Refine):
        kind.fail_count = _FailCount()
