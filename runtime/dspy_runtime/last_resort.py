"""The answers for a request whose language models do not answer: an old one, else the one of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic_core import to_json

from dspy_contract.outcomes import FALLBACK_FLAG, Outcome
from dspy_runtime.endings import LATE
from dspy_runtime.exchange import Cached, Exchange
from dspy_runtime.failures import LMConfigurationError
from dspy_runtime.schema import Schema

_UNANSWERED = frozenset({Outcome.UPSTREAM_ERROR, Outcome.TIMEOUT})
"""Outcomes of a request that nobody answered, besides what its client's own deadline ended."""


class LastResort:
    """The configuration's answer, if it has one."""

    def __init__(self, fields: Mapping[str, Any], schema: Schema) -> None:
        """Raises LMConfigurationError for an answer that the program could not give; fields may be left out."""
        self._answer = to_json(dict(fields)) if fields else None
        if self._answer is None:
            return
        problems = schema.problems_of_answer(fields)
        if problems:
            raise LMConfigurationError(f"lm.lastResort is no answer of this program: {'; '.join(problems)}")
        if not schema.given.accepts(self._answer):
            raise LMConfigurationError("lm.lastResort is not what serving.schema.output says")

    def stand_in(self, exchange: Exchange) -> None:
        """Gives an answer to an exchange that has ended without one, unless its client has read a part of another. It
        stays the failure that it is."""
        ending = exchange.ending
        if ending is None or (exchange.parts is not None and exchange.parts.begun.done()):
            return
        unanswered = ending.outcome in _UNANSWERED or ending is LATE
        if exchange.stale and (unanswered or ending.outcome is Outcome.OVERLOADED):
            exchange.cached, exchange.answer = Cached.STALE, exchange.stale
        elif self._answer is not None and unanswered:
            # Not of what is kept: only a revision that has served for a while has that, so it tells nothing of a model.
            exchange.answer, exchange.flags = self._answer, tuple(sorted({*exchange.flags, FALLBACK_FLAG}))
        else:
            return
        exchange.ending = replace(ending, status=200, retry_after_seconds=None)
