"""Checks of what goes into a program and what comes out of it: they block, flag or mask, each with a deadline.

A function that fails or is late counts as one that found something: what was to be kept out is not let in for that.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

import anyio.to_thread
import jsonschema_rs
from pydantic_core import from_json, to_json

from dspy_contract.logs import Logger
from dspy_runtime import endings
from dspy_runtime.exchange import Exchange, Next, Stage
from dspy_runtime.failures import GuardrailError, described
from dspy_runtime.metrics import Metrics
from dspy_runtime.settings import GuardrailSettings

GROUP = "dspy_runtime.guardrails"
"""Of the entry points by which an image brings functions."""

Fields = dict[str, Any]
Found = str | Fields | None
"""Nothing, the reason of a finding, or the fields without what was found."""
Check = Callable[[Fields], Awaitable[Found]]

log = Logger(__name__)


@dataclass(frozen=True, slots=True)
class Guardrail:
    """A check by its settings."""

    settings: GuardrailSettings
    check: Check


class Guardrails:
    """Those of a program, in the order of the settings."""

    def __init__(self, settings: Sequence[GuardrailSettings], metrics: Metrics) -> None:
        """Raises GuardrailError for one that cannot be."""
        made = [Guardrail(each, _check(each)) for each in settings]
        self._input = [each for each in made if each.settings.target == "Input"]
        self._output = [each for each in made if each.settings.target == "Output"]
        self._metrics = metrics
        self._holds_back = any(each.settings.action != "Flag" for each in self._output)
        """Whether an answer may not be told before it is whole."""

    def stage(self) -> Stage:
        """The checks around the program."""

        async def stage(exchange: Exchange, inner: Next) -> None:
            if self._holds_back:
                exchange.parts = None
            flags: list[str] = []
            exchange.arguments = await self._passed(exchange, self._input, exchange.arguments, flags)
            try:
                if exchange.ending is None:
                    await inner(exchange)
            finally:
                exchange.flags = tuple(sorted({*exchange.flags, *flags}))
            if self._output and exchange.ending is endings.OK:
                await self._checked_answer(exchange)

        return stage

    async def _checked_answer(self, exchange: Exchange) -> None:
        flags = list(exchange.flags)
        fields = from_json(exchange.answer)
        passed = await self._passed(exchange, self._output, fields, flags)
        if passed is not fields:
            exchange.answer = to_json(passed)
        exchange.flags = tuple(sorted(set(flags)))

    async def _passed(
        self, exchange: Exchange, guardrails: Sequence[Guardrail], fields: Fields, flags: list[str]
    ) -> Fields:
        """The fields as they may go on. Ends the exchange where one blocks."""
        for each in guardrails:
            found, failed = await self._found(each, fields)
            result = _result(each.settings.action, found)
            self._metrics.record_guardrail(each.settings.name, "Failed" if failed else result)
            if result == "Pass":
                continue
            flags.append(each.settings.name)
            if isinstance(found, dict) and result == "Mask":
                fields = found
            elif result == "Block":
                ending = endings.BLOCKED_INPUT if each.settings.target == "Input" else endings.BLOCKED_OUTPUT
                exchange.end(replace(ending, message=f"{ending.message} {each.settings.name}"))
                break
        return fields

    async def _found(self, guardrail: Guardrail, fields: Fields) -> tuple[Found, bool]:
        """What a guardrail found, and whether it is only that it failed or was late."""
        try:
            async with asyncio.timeout(guardrail.settings.timeout_seconds):
                return await guardrail.check(fields), False
        except Exception as error:  # it is the version's own code
            log.error("A guardrail failed", guardrail=guardrail.settings.name, error=described(error))
            return "failed", True


def _result(action: str, found: Found) -> str:
    """What becomes of a finding. Who is to mask and returns no fields blocks."""
    if found is None:
        return "Pass"
    return "Block" if action == "Mask" and not isinstance(found, dict) else action


def _check(settings: GuardrailSettings) -> Check:
    given = [name for name in ("pattern", "match", "function") if getattr(settings, name)]
    if len(given) != 1:
        raise GuardrailError(f"guardrails: {settings.name} needs one of pattern, match and function")
    if settings.action == "Mask" and given != ["function"]:
        raise GuardrailError(f"guardrails: {settings.name} masks by a function only")
    if settings.function:
        return _by_function(settings)
    return _by_schema(settings)


def _by_schema(settings: GuardrailSettings) -> Check:
    """Finds what has a pattern in a text, or what is not of a schema. Patterns take linear time."""
    schema = settings.match or {"type": "string", "pattern": settings.pattern}
    try:
        validator = jsonschema_rs.validator_for(schema, pattern_options=jsonschema_rs.RegexOptions())
    except ValueError as error:
        raise GuardrailError(f"guardrails: {settings.name}: {getattr(error, 'message', error)}") from error

    async def check(fields: Fields) -> Found:
        plain = from_json(to_json(fields, serialize_unknown=True))
        if settings.match:
            return None if validator.is_valid(plain) else "not of the schema"
        named = [value for name, value in plain.items() if not settings.fields or name in settings.fields]
        return "pattern" if any(validator.is_valid(text) for value in named for text in _texts(value)) else None

    return check


def _texts(value: Any) -> list[str]:
    """All text in a value of JSON."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for each in inner for text in _texts(each)]


def _by_function(settings: GuardrailSettings) -> Check:
    function = _function(settings)
    if inspect.iscoroutinefunction(function):
        awaited: Check = function
        return awaited

    async def check(fields: Fields) -> Found:
        found: Found = await anyio.to_thread.run_sync(function, fields, abandon_on_cancel=True)
        return found

    return check


def _function(settings: GuardrailSettings) -> Any:
    """A function of the version's code, `module:name`, or one that the image has under a name."""
    module, colon, name = settings.function.partition(":")
    try:
        if colon:
            return getattr(importlib.import_module(module), name)
        (entry,) = metadata.entry_points(group=GROUP, name=settings.function)
        return entry.load()
    except (ImportError, AttributeError, ValueError) as error:
        where = "the version's code (log it with code_paths)" if colon else f"the image's entry points of {GROUP}"
        raise GuardrailError(f"guardrails: {settings.name}: {where} has no {settings.function}") from error
