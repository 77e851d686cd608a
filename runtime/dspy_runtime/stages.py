"""The stages of a request around the program itself: shed, parse, admit, serialise."""

from __future__ import annotations

from pydantic import ValidationError

from dspy_contract.outcomes import FALLBACK_FLAG
from dspy_runtime import endings
from dspy_runtime.admission import Admission, OverloadedError
from dspy_runtime.answers import answer_json, flags_of, score_of
from dspy_runtime.endings import UnfitInputError
from dspy_runtime.exchange import Exchange, Next, Stage
from dspy_runtime.lm.scope import RequestScope
from dspy_runtime.schema import Schema


def shed(admission: Admission) -> Stage:
    """Whoever cannot even wait is told before anybody reads what was sent."""

    async def stage(exchange: Exchange, inner: Next) -> None:
        if admission.is_open(exchange.priority):
            await inner(exchange)
        else:
            exchange.end(endings.OVERLOADED)

    return stage


def parse(schema: Schema) -> Stage:
    """The body becomes the program's arguments, or the end."""

    async def stage(exchange: Exchange, inner: Next) -> None:
        if exchange.body.count(b",") > endings.MOST_VALUES:
            exchange.end(endings.TOO_MANY)
            return
        try:
            exchange.arguments = schema.arguments(exchange.body)
        except (ValidationError, UnfitInputError) as error:
            exchange.end(*endings.of_invalid_input(error))
        except Exception as error:  # types of the program check themselves, and may raise anything
            exchange.end(endings.INVALID_INPUT, error=error)
        else:
            exchange.body = b""
            await inner(exchange)

    return stage


def admit(admission: Admission, names_models: bool) -> Stage:
    """Waits for a place, where there is room to wait. Whatever the request asks of a language model ends with it.
    `names_models` says whether an answer tells which models it is of."""

    async def stage(exchange: Exchange, inner: Next) -> None:
        scope = RequestScope(exchange.deadline, exchange.trace, of_client=exchange.late is endings.LATE)
        exchange.queued = True
        try:
            exchange.place = scope.place = await admission.enter(exchange.priority)
        except OverloadedError:
            exchange.end(endings.OVERLOADED)
            return
        exchange.queued = False
        exchange.let_go()
        try:
            with scope.entered():
                await inner(exchange)
        finally:
            exchange.tokens, exchange.cost = scope.tokens, scope.cost
            if names_models:
                exchange.models = tuple(sorted(scope.models))
            if scope.fell_back:
                exchange.flags = tuple(sorted({*exchange.flags, FALLBACK_FLAG}))
            exchange.place.leave()

    return stage


def serialise(schema: Schema) -> Stage:
    """What the program returned becomes the answer."""

    async def stage(exchange: Exchange, inner: Next) -> None:
        await inner(exchange)
        exchange.flags, exchange.score = flags_of(exchange.result), score_of(exchange.result)
        exchange.answer = answer_json(schema.fields(exchange.result))
        if schema.given.accepts(exchange.answer):
            exchange.ending = endings.OK
        else:
            exchange.end(endings.UNFIT)

    return stage
