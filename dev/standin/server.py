"""The stand-in's server. `PUT /settings` changes its behaviour; `GET /settings` shows it and what it has seen."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from aiohttp import web

from dev.standin.formats import Answer, Asked, RefusedError, checked, format_of

MARKED = re.compile(r"\[\[ ## (\w+) ## \]\]")
QUOTED = re.compile(r"`(\w+)`")
PROSE = "Thank you for your message! I looked into it and will be happy to help you with that."


@dataclass
class Settings:
    """How the provider behaves from now on."""

    latency_seconds: float = 0.02
    error_share: float = 0.0
    """The share of calls that fail with `error_status`."""
    error_status: int = 500
    error_body: dict[str, Any] = field(
        default_factory=lambda: {"error": {"message": "the provider failed", "type": "server_error"}}
    )
    error_headers: dict[str, str] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=lambda: {"category": "billing", "urgency": "low"})
    """What is answered for an output field of that name."""
    default_answer: str = "A helpful answer."
    prose_when: str = "in flowing prose"
    """A prompt that holds these words is obeyed: the answer is prose, without the fields that DSPy looks for."""
    error_models: list[str] = field(default_factory=list)
    """Models whose calls are answered with the error."""
    error_when: str = ""
    """A prompt that holds these words is answered with the error, whatever `error_share` says."""
    error_when_share: float = 1.0
    """How often."""
    slow_when: str = ""
    """A prompt that holds these words is answered after `slow_seconds`."""
    slow_seconds: float = 0.0
    slow_every: int = 0
    """Every so many-th call is answered after `slow_seconds` as well."""
    most_in_flight: int = 0
    """Calls beyond so many at once are refused with 429; none where it is 0."""
    event_seconds: float = 0.0
    """Between two events of a stream."""
    error_event: bool = False
    """Whether a stream is an error, behind a 200."""
    breaks_after_events: int | None = None
    """A stream ends after so many, without its end."""
    calls_tools: bool = True
    """Whether a tool that is offered is called."""
    tool_arguments: dict[str, Any] = field(default_factory=dict)
    """With what."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A call as it came."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


class Provider:
    """The provider: its settings, the calls that it saw, and the keys that they carried."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.calls = 0
        self.in_flight = self.refused = 0
        self.keys: set[str] = set()
        self.models: Counter[str] = Counter()
        self.gone = 0
        """Calls whose client left before the answer."""
        self.peers: set[Any] = set()
        """The ends of connections that calls came over."""
        self.last: Seen | None = None

    def application(self) -> web.Application:
        """The provider's HTTP application."""
        app = web.Application(client_max_size=64 << 20)
        app.add_routes(
            [
                web.get("/settings", self.show),
                web.put("/settings", self.change),
                web.get("/healthz", self.show),
                web.post("/{path:.*}/embeddings", self.embed),
                web.post("/{path:.*}", self.complete),
            ]
        )
        return app

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """One call of the model, in whatever format is spoken at that address."""
        spoken = format_of(request.path)
        if spoken is None:
            raise web.HTTPNotFound
        self.calls += 1
        self.keys.add(request.headers.get("Authorization", ""))
        if request.transport is not None:
            self.peers.add(request.transport.get_extra_info("peername"))
        body = await request.json()
        self.last = Seen(request.path_qs, dict(request.headers), body)
        settings = self.settings
        try:
            asked = checked(spoken, request.path, body)
        except RefusedError as error:
            return web.json_response({"error": {"message": str(error), "type": "invalid_request_error"}}, status=400)
        self.models[asked.model] += 1
        if settings.most_in_flight and self.in_flight >= settings.most_in_flight:
            self.refused += 1
            return web.json_response({"error": {"message": "too many", "type": "rate_limit_exceeded"}}, status=429)
        slow = bool(settings.slow_when) and settings.slow_when in asked.prompt
        slow |= settings.slow_every > 0 and self.calls % settings.slow_every == 0
        self.in_flight += 1
        try:
            await asyncio.sleep(settings.slow_seconds if slow else settings.latency_seconds)
        except asyncio.CancelledError:
            self.gone += 1
            raise
        finally:
            self.in_flight -= 1
        told = bool(settings.error_when) and settings.error_when in asked.prompt
        failing = asked.model in settings.error_models
        if failing or (told and random.random() < settings.error_when_share) or random.random() < settings.error_share:
            return web.json_response(settings.error_body, status=settings.error_status, headers=settings.error_headers)
        given = answered(asked, settings)
        if not asked.stream:
            return web.json_response(spoken.answer(given))
        try:
            return await _streamed(request, spoken.events(given), settings)
        except (asyncio.CancelledError, ConnectionResetError):
            self.gone += 1
            raise

    async def embed(self, request: web.Request) -> web.Response:
        """One batch of embeddings: of each text its length and how many vowels it has."""
        self.calls += 1
        self.keys.add(request.headers.get("Authorization", ""))
        body = await request.json()
        vectors = [[float(len(text)), float(len(re.findall("[aeiou]", text)))] for text in body["input"]]
        data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
        return web.json_response({"object": "list", "model": body["model"], "data": data[::-1]})

    async def show(self, _: web.Request) -> web.Response:
        """The settings and what was seen."""
        seen = {"calls": self.calls, "keys": sorted(self.keys), "connections": len(self.peers)}
        return web.json_response({**asdict(self.settings), **seen})

    async def change(self, request: web.Request) -> web.Response:
        """Replaces the settings that the body names."""
        try:
            self.settings = Settings(**{**asdict(self.settings), **await request.json()})
        except TypeError as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from None
        return await self.show(request)


def answered(asked: Asked, settings: Settings) -> Answer:
    """What the model says: a call of the tool that is offered, an object of the schema that is asked for, else text."""
    if asked.tools and settings.calls_tools:
        return Answer(asked, "", asked.tools[0], dict(settings.tool_arguments))
    if asked.schema is not None:
        names = asked.schema.get("properties", {})
        return Answer(asked, json.dumps({name: settings.answers.get(name, settings.default_answer) for name in names}))
    return Answer(asked, answer(asked.prompt, settings))


def answer(prompt: str, settings: Settings) -> str:
    """What the model says: prose where the prompt asks for it, else every field in the format that the prompt asks
    for."""
    if settings.prose_when and settings.prose_when in prompt:
        return PROSE
    asked = prompt.rpartition("Respond with")[2]
    names = [name for name in MARKED.findall(asked) if name != "completed"]
    if names:
        parts = [f"[[ ## {name} ## ]]\n{settings.answers.get(name, settings.default_answer)}" for name in names]
        return "\n\n".join([*parts, "[[ ## completed ## ]]"])
    return json.dumps({name: settings.answers.get(name, settings.default_answer) for name in QUOTED.findall(asked)})


async def _streamed(request: web.Request, events: Iterator[bytes], settings: Settings) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    if settings.error_event:
        events = iter([b"data: %b\n\n" % json.dumps(settings.error_body).encode()])
    for event in itertools.islice(events, settings.breaks_after_events):
        await response.write(event)
        await asyncio.sleep(settings.event_seconds)
    if settings.breaks_after_events is not None and request.transport is not None:
        request.transport.close()
    return response
