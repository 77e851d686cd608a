"""The stages of a request but for the program itself: parse, admit, serialise."""

from __future__ import annotations

from dspy_runtime import outcomes
from dspy_runtime.admission import Admission, OverloadedError
from dspy_runtime.answers import answer_json
from dspy_runtime.exchange import Exchange, Stage
from dspy_runtime.schema import Schema


def parse(schema: Schema) -> Stage:
    """The body becomes the program's arguments, or the end."""

    async def stage(exchange: Exchange) -> None:
        try:
            exchange.arguments = schema.arguments(exchange.body)
        except Exception as error:  # types of the program check themselves, and may raise anything
            exchange.end(*outcomes.of_invalid_input(error))

    return stage


def admit(admission: Admission) -> Stage:
    """Waits for a place, where there is room to wait."""

    async def stage(exchange: Exchange) -> None:
        try:
            exchange.place = await admission.enter()
            exchange.admitted = True
        except OverloadedError:
            exchange.end(outcomes.OVERLOADED)

    return stage


def serialise(schema: Schema) -> Stage:
    """What the program returned becomes the answer."""

    async def stage(exchange: Exchange) -> None:
        exchange.answer = answer_json(schema.fields(exchange.result))
        if schema.given.accepts(exchange.answer):
            exchange.outcome = outcomes.OK
        else:
            exchange.end(outcomes.UNFIT)

    return stage
