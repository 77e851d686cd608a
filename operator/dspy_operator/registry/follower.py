"""What model uris mean now: each is asked for once, however many programs name it, and they hear of every change.

An alias is asked for again and again; a version only until it is known, since it means the same for good. What a uri
means is a version's identity; its files are read once more only where no revision of the program tells their digest.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar
from zlib import crc32

from dspy_contract.logs import Logger
from dspy_operator.api.reasons import Reason
from dspy_operator.domain.snapshot import Problem, Version
from dspy_operator.registry.uri import Identity, ModelUri, parse

AT_ONCE = 8
"""Questions to one registry at once: one that is slow holds up no other."""

INVALID_SECONDS = 300.0
"""Until files that cannot serve are read again."""

log = Logger(__name__)


class Source(Protocol):
    """A registry that can be asked."""

    @property
    def url(self) -> str:
        """Where it is."""

    async def ask(self, uri: ModelUri) -> Identity | Problem:
        """What a uri means now."""

    async def read(self, identity: Identity) -> Version | Problem:
        """A version, by its files."""

    def archive(self, version: Version) -> bytes | None:
        """The packed files of a version; None while they are not at hand."""

    async def write(self, uri: str, alias: str, tags: Mapping[str, str]) -> Problem | None:
        """Has an alias (empty: none) name a version, and gives it tags. Why not, if so."""

    async def close(self) -> None:
        """Closes the connections."""


A = TypeVar("A", Identity, Version)


@dataclass(slots=True)
class _Question(Generic[A]):
    """One thing that programs want to know of one registry, and the latest answer."""

    programs: set[tuple[str, str]] = field(default_factory=set)
    answer: A | Problem | None = None
    task: asyncio.Task[None] | None = None


class Follower:
    """Follows uris for programs (namespace, name). `wake` hears of those whose answer is another."""

    def __init__(self, sources: Mapping[str, Source], poll_seconds: float, wake: Callable[[str, str], None]) -> None:
        self.sources = sources
        self._poll_seconds = poll_seconds
        self._wake = wake
        self._uris: dict[tuple[str, str], _Question[Identity]] = {}
        self._versions: dict[tuple[str, Identity], _Question[Version]] = {}
        self._follows: dict[tuple[str, str], tuple[str, str]] = {}
        """The registry and the uri that each program follows."""
        self._reads: dict[tuple[str, str], tuple[str, Identity]] = {}
        """The registry and the version whose files each program waits for."""
        self._places: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(AT_ONCE))

    def follow(
        self, program: tuple[str, str], registry: str, uri: str, known: Mapping[str, Version]
    ) -> Version | Problem:
        """What the uri means, as far as is known; the program hears of it when that changes, until it asks for another.

        `known` are the versions of the program's own revisions, by model id: believed for this program only. Raises
        InvalidSpecError for a uri that is none, KeyError for a registry that is not configured.
        """
        parsed, key, source = parse(uri), (registry, uri), self.sources[registry]
        if self._follows.get(program) != key:
            self.leave(program)
        self._follows[program] = key
        question = self._uris.setdefault(key, _Question())
        question.programs.add(program)
        if question.task is None:
            question.task = asyncio.create_task(self._follow_uri(registry, parsed, question))
        identity = question.answer
        if identity is None:
            return Problem(Reason.RESOLVING, f"The registry is being asked for {uri}")
        if isinstance(identity, Problem):
            return identity
        version = known.get(identity.model_id) if identity.model_id else None
        if version is not None and version.uri == identity.uri:
            self._leave_read(program)
            return version
        return self._read(program, registry, source, identity)

    def leave(self, program: tuple[str, str]) -> None:
        """The program asks for nothing any more."""
        if program in self._follows:
            _leave(self._uris, self._follows.pop(program), program)
        self._leave_read(program)

    async def close(self) -> None:
        """Ends every question, and closes the registries."""
        for program in list(self._follows):
            self.leave(program)
        for source in self.sources.values():
            await source.close()

    def _leave_read(self, program: tuple[str, str]) -> None:
        if program in self._reads:
            _leave(self._versions, self._reads.pop(program), program)

    def _read(self, program: tuple[str, str], registry: str, source: Source, identity: Identity) -> Version | Problem:
        key = (registry, identity)
        if self._reads.get(program) != key:
            self._leave_read(program)
        self._reads[program] = key
        question = self._versions.setdefault(key, _Question())
        question.programs.add(program)
        if question.task is None:
            question.task = asyncio.create_task(self._read_version(question, source, identity))
        return question.answer or Problem(Reason.RESOLVING, f"The files of {identity.uri} are being read")

    async def _follow_uri(self, registry: str, uri: ModelUri, question: _Question[Identity]) -> None:
        source = self.sources[registry]
        while True:
            async with self._places[registry]:
                answer = await _guarded(source.ask(uri), source)
            self._take(question, answer)
            if uri.version is not None and isinstance(answer, Identity):
                return
            await asyncio.sleep(self._poll_seconds * _spread(uri))

    async def _read_version(self, question: _Question[Version], source: Source, identity: Identity) -> None:
        """Reads until the files are known. Those that cannot serve are read again too: what came may not be theirs."""
        while True:
            answer = await _guarded(source.read(identity), source)
            self._take(question, answer)
            if isinstance(answer, Version):
                return
            invalid = answer.reason == Reason.MODEL_INVALID
            await asyncio.sleep(INVALID_SECONDS if invalid else self._poll_seconds)

    def _take(self, question: _Question[A], answer: A | Problem) -> None:
        if answer != question.answer:
            question.answer = answer
            for program in sorted(question.programs):
                self._wake(*program)


K = TypeVar("K")


def _leave(questions: dict[K, _Question[A]], key: K, program: tuple[str, str]) -> None:
    question = questions.get(key)
    if question is None:
        return
    question.programs.discard(program)
    if not question.programs:
        del questions[key]
        if question.task is not None:
            question.task.cancel()


def _spread(uri: ModelUri) -> float:
    """0.9 to 1.1, the same for a uri each time: questions that began together do not stay together."""
    return 0.9 + 0.2 * (crc32(str(uri).encode()) % 1_000) / 1_000


async def _guarded(asking: Awaitable[A | Problem], source: Source) -> A | Problem:
    try:
        return await asking
    except Exception as error:  # one question that fails in an unforeseen way ends neither itself nor the others
        log.exception("A registry could not be asked", registry=source.url)
        return Problem(Reason.REGISTRY_UNAVAILABLE, f"The registry could not be asked: {type(error).__name__}")
