"""Writes aliases and tags back to registries, beside the passes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol

import tenacity

from dspy_contract.logs import Logger
from dspy_operator.api.reasons import Reason
from dspy_operator.domain.snapshot import Problem, Program
from dspy_operator.domain.transition import Event
from dspy_operator.domain.write_back import Wish
from dspy_operator.outbox import Outbox
from dspy_operator.settings import RegistrySettings

LONGEST_SECONDS = 3_600.0
"""How long one wish is tried; meanwhile the registry's others wait."""

log = Logger(__name__)


class Writable(Protocol):
    """A registry that takes aliases and tags."""

    async def write(self, uri: str, alias: str, tags: Mapping[str, str]) -> Problem | None:
        """Why it does not take them; None when it has."""


class WriteBacks:
    """What is to be written to the registries."""

    def __init__(
        self,
        registries: Mapping[str, Writable],
        settings: Mapping[str, RegistrySettings],
        tell: Callable[[Program, Event], Awaitable[None]],
    ) -> None:
        """`tell` emits an event of a program."""
        self._registries = registries
        self._settings = settings
        self._tell = tell
        self._outbox: Outbox[tuple[Program, Wish]] = Outbox(self._write)

    def want(self, program: Program, wishes: Iterable[Wish]) -> None:
        """Has them written, soon."""
        for wish in wishes:
            if wish.registry not in self._registries:
                continue  # it has been taken out of the configuration
            if not self._outbox.put(wish.registry, (program, wish)):
                log.warning("A registry is too far behind: a write-back is dropped", wish=wish.words)

    def close(self) -> None:
        """Ends it; what waits is lost."""
        self._outbox.close()

    def _refusal(self, program: Program, wish: Wish) -> Problem | None:
        """Why it is not even tried."""
        allowed = self._settings[wish.registry].write_back_namespaces if wish.registry in self._settings else []
        if program.namespace not in allowed and "*" not in allowed:
            words = f"write_back_namespaces of the registry {wish.registry} does not name {program.namespace}"
            return Problem(Reason.INVALID, f"{words} in the operator's configuration")
        return Problem(Reason.INVALID, wish.problem) if wish.problem else None

    async def _write(self, registry: str, wanted: tuple[Program, Wish]) -> None:
        program, wish = wanted
        try:
            problem = self._refusal(program, wish) or await _written(self._registries[registry], wish)
        except Exception as error:  # nothing that one registry answers may end its task
            problem = Problem(Reason.REGISTRY_UNAVAILABLE, type(error).__name__)
        if problem is None:
            await self._tell(program, Event(Reason.WRITTEN_BACK, f"In the registry {wish.words}"))
        else:
            message = f"Not written to the registry: {wish.words}: {problem.message}"
            await self._tell(program, Event(Reason.WRITE_BACK_FAILED, message, warning=True))


async def _written(registry: Writable, wish: Wish) -> Problem | None:
    """Tried while the registry is away; what it says then is final."""
    retrying = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_result(lambda said: said is not None and said.reason == Reason.REGISTRY_UNAVAILABLE),
        wait=tenacity.wait_random_exponential(multiplier=1, max=60),
        stop=tenacity.stop_after_delay(LONGEST_SECONDS),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
    )
    said: Problem | None = await retrying(registry.write, wish.uri, wish.alias, wish.tags or {})
    return said
