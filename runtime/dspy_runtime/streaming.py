"""What a program says before its answer is whole: the text fields of its answer, as DSPy's listeners find them in what
a language model sends."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import dspy
from dspy.streaming import StreamListener
from dspy.streaming.streaming_listener import ADAPTER_SUPPORT_STREAMING

from dspy_runtime.exchange import Part, Parts


class Streams:
    """Which predictors of a program say what of its answer."""

    def __init__(self, program: Any, fields: frozenset[str]) -> None:
        """`fields` are those of the program's answer that are text: no other leaves the program."""
        self._sources = tuple(
            (name, predictor, field)
            for name, predictor in program.named_predictors()
            for field, info in predictor.signature.output_fields.items()
            if field in fields and info.annotation is str
        )

    async def told(self, parts: Parts, run: Callable[[], Awaitable[Any]]) -> Any:
        """What the program returns. Meanwhile `parts` hear of it, where the adapter in force is one whose fields can be
        found before they are whole."""
        if not self._sources or type(dspy.settings.adapter) not in ADAPTER_SUPPORT_STREAMING:
            return await run()
        # Listeners remember what they have heard: each request has its own.
        listeners = [StreamListener(field, predictor, name) for name, predictor, field in self._sources]
        sink = _Sink(listeners, parts)
        with dspy.context(send_stream=sink, stream_listeners=listeners):
            result = await run()
            await sink.finish()
        return result


class _Sink:
    """Where DSPy sends each piece of a model's answer."""

    def __init__(self, listeners: list[StreamListener], parts: Parts) -> None:
        self._listeners = listeners
        self._of_predictor: dict[int, list[StreamListener]] = defaultdict(list)
        for listener in listeners:
            self._of_predictor[id(listener.predict)].append(listener)
        self._parts = parts

    async def send(self, chunk: Any) -> None:
        for listener in self._of_predictor[chunk.predict_id]:
            await self._tell(listener.receive(chunk))

    async def finish(self) -> None:
        """Tells what the listeners have kept back in case it was no text."""
        for listener in self._listeners:
            await self._tell(listener.finalize())

    async def _tell(self, said: Any) -> None:
        if said is not None and said.chunk:
            await self._parts.put(Part(said.predict_name, said.signature_field_name, said.chunk))
