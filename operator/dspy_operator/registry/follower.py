"""What model uris mean now: each is asked for once, however many programs name it, and they hear of every change.

An alias is asked for again and again; a version only until it is known, since it means the same for good.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol
from zlib import crc32

from dspy_contract.logs import Logger
from dspy_operator.api.reasons import Reason
from dspy_operator.domain.snapshot import Problem, Version
from dspy_operator.registry.uri import ModelUri, parse

AT_ONCE = 8
"""Questions to all registries at once."""

log = Logger(__name__)


class Source(Protocol):
    """A registry that can be asked."""

    @property
    def url(self) -> str:
        """Where it is."""

    async def ask(self, uri: ModelUri, known: Mapping[str, Version]) -> Version | Problem:
        """What a uri means now. `known` are versions, by model id, whose files need not be read again."""

    async def archive(self, version: Version) -> bytes | None:
        """The packed files of a version; None when they cannot be had now."""

    async def close(self) -> None:
        """Closes the connections."""


@dataclass(slots=True)
class _Question:
    """One uri of one registry: the programs that name it, what they know already, and the latest answer."""

    uri: ModelUri
    programs: set[tuple[str, str]] = field(default_factory=set)
    known: dict[str, Version] = field(default_factory=dict)
    answer: Version | Problem | None = None
    task: asyncio.Task[None] | None = None


class Follower:
    """Follows uris for programs (namespace, name). `wake` hears of those whose answer is another."""

    def __init__(self, sources: Mapping[str, Source], poll_seconds: float, wake: Callable[[str, str], None]) -> None:
        self.sources = sources
        self._poll_seconds = poll_seconds
        self._wake = wake
        self._questions: dict[tuple[str, str], _Question] = {}
        self._asked: dict[tuple[str, str], tuple[str, str]] = {}
        """The question of each program."""
        self._places = asyncio.Semaphore(AT_ONCE)

    def follow(
        self, program: tuple[str, str], registry: str, uri: str, known: Mapping[str, Version]
    ) -> Version | Problem:
        """What the uri means, as far as is known; the program hears of it when that changes, until it asks for another.

        `known` are versions that it had, by model id. Raises InvalidSpecError for a uri that is none, KeyError for a
        registry that is not configured.
        """
        parsed, key, source = parse(uri), (registry, uri), self.sources[registry]
        if self._asked.get(program) != key:
            self.leave(program)
        question = self._questions.setdefault(key, _Question(parsed))
        question.programs.add(program)
        question.known.update(known)
        self._asked[program] = key
        if question.task is None:
            question.task = asyncio.create_task(self._ask_for_ever(question, source))
        return question.answer or Problem(Reason.RESOLVING, f"The registry is being asked for {uri}")

    def leave(self, program: tuple[str, str]) -> None:
        """The program asks for nothing any more."""
        key = self._asked.pop(program, None)
        question = self._questions.get(key) if key else None
        if key is None or question is None:
            return
        question.programs.discard(program)
        if not question.programs:
            del self._questions[key]
            if question.task is not None:
                question.task.cancel()

    async def close(self) -> None:
        """Ends every question, and closes the registries."""
        for program in list(self._asked):
            self.leave(program)
        for source in self.sources.values():
            await source.close()

    async def _ask_for_ever(self, question: _Question, source: Source) -> None:
        while True:
            async with self._places:
                answer = await _answer_of(question, source)
            if answer != question.answer:
                question.answer = answer
                for program in sorted(question.programs):
                    self._wake(*program)
            if question.uri.version is not None and isinstance(answer, Version):
                return
            await asyncio.sleep(self._poll_seconds * _spread(question.uri))


def _spread(uri: ModelUri) -> float:
    """0.9 to 1.1, the same for a uri each time: questions that began together do not stay together."""
    return 0.9 + 0.2 * (crc32(str(uri).encode()) % 1_000) / 1_000


async def _answer_of(question: _Question, source: Source) -> Version | Problem:
    try:
        return await source.ask(question.uri, question.known)
    except Exception as error:  # one question that fails in an unforeseen way ends neither itself nor the others
        log.exception("A registry could not be asked", registry=source.url)
        return Problem(Reason.REGISTRY_UNAVAILABLE, f"The registry could not be asked: {type(error).__name__}")
