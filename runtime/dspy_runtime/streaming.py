"""What a program says before its answer is whole: the text fields of its answer, as DSPy's listeners find them in what
a language model sends."""

from __future__ import annotations

from typing import Any

import dspy
from dspy.streaming import StreamListener

from dspy_runtime.exchange import Part, Parts
from dspy_runtime.lm.served import RequestCalls

ADAPTERS = (dspy.ChatAdapter, dspy.XMLAdapter)
"""Whose fields DSPy's listeners find. Under JSONAdapter they hand out JSON as it stands, the next field's among it."""


class Streams:
    """Which predictors of a program say what of its answer."""

    def __init__(self, program: Any, fields: frozenset[str]) -> None:
        """`fields` are those of the program's answer that are text: no other leaves the program."""
        self._fields: dict[int, tuple[str, list[str]]] = {}
        for name, predictor in program.named_predictors():
            found = [
                field
                for field, info in predictor.signature.output_fields.items()
                if field in fields and info.annotation is str
            ]
            if found:
                self._fields[id(predictor)] = (name, found)

    def of(self, parts: Parts) -> RequestStream:
        """Where DSPy sends what the models of one request say."""
        return RequestStream(self._fields, parts)


class RequestStream(RequestCalls):
    """One request's calls of language models. The first one of each predictor is told of, so that two at once are not
    taken for one."""

    def __init__(self, fields: dict[int, tuple[str, list[str]]], parts: Parts) -> None:
        self._fields = fields
        self._called: set[int] = set()
        self._parts = parts

    def call(self) -> CallStream | None:
        """Of the call that begins now; None for one that is not told of."""
        predictor = dspy.settings.caller_predict
        name, fields = self._fields.get(id(predictor), ("", []))
        if not fields or id(predictor) in self._called or type(dspy.settings.adapter) not in ADAPTERS:
            return None
        self._called.add(id(predictor))
        return CallStream([StreamListener(field, predictor, name) for field in fields], self._parts)


class CallStream:
    """What DSPy takes for a stream: each piece of a model's answer is sent to it."""

    def __init__(self, listeners: list[StreamListener], parts: Parts) -> None:
        self._listeners = listeners
        self._parts = parts

    async def send(self, chunk: Any) -> None:
        """Tells what the piece says of the fields."""
        for listener in self._listeners:
            await self._tell(listener.receive(chunk))

    async def finish(self) -> None:
        """Tells what the listeners have kept back in case it was no text."""
        for listener in self._listeners:
            await self._tell(listener.finalize())

    async def _tell(self, found: Any) -> None:
        if found is None or not found.chunk:
            return
        text = found.chunk.encode("utf-8", "replace").decode()  # half a character of a model's is no JSON
        await self._parts.put(Part(found.predict_name, found.signature_field_name, text))
