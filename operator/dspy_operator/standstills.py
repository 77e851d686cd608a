"""Asks a pod of each revision that serves, now and then, whether its program has held up all requests; what is heard
is told once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from dspy_contract.logs import Logger
from dspy_operator.domain.snapshot import Standstill
from dspy_operator.runtime_client import Runtimes, RuntimeUnheardError

ASKED_AT_ONCE = 8
ASK_SECONDS = 30.0
"""How often a program's revisions are asked, if passes come as often."""
TELL_SECONDS = 600.0
"""A revision that stands still all the time is told of this often."""

log = Logger(__name__)


@dataclass(slots=True)
class _Program:
    """What is known of one program: when its pods were asked, when each revision answered and was told of, and what is
    not told yet, by revision. Times are of the loop."""

    asked_at: float
    answered_at: dict[str, float] = field(default_factory=dict)
    told_at: dict[str, float] = field(default_factory=dict)
    untold: dict[str, Standstill] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None


class Standstills:
    """What programs have held up."""

    def __init__(self, runtimes: Runtimes, wake: Callable[[str, str], None]) -> None:
        """`wake` hears the namespace and name of a program of which there is something to tell."""
        self._runtimes = runtimes
        self._wake = wake
        self._programs: dict[tuple[str, str], _Program] = {}
        self._places = asyncio.Semaphore(ASKED_AT_ONCE)

    def of(self, namespace: str, program: str, addresses: Mapping[str, str]) -> tuple[Standstill, ...]:
        """What is not told yet. `addresses` are those of a Ready pod of each revision.

        The first time nobody is asked: after a start of the operator every program has a pass.
        """
        now = asyncio.get_running_loop().time()
        known = self._programs.setdefault((namespace, program), _Program(now))
        for revision in addresses:
            known.answered_at.setdefault(revision, now)
        if known.task is None and addresses and now - known.asked_at >= ASK_SECONDS:
            known.asked_at = now
            known.task = asyncio.create_task(self._ask(namespace, program, known, addresses))
        return tuple(known.untold.values())

    def told(self, namespace: str, program: str, standstills: Iterable[Standstill]) -> None:
        """These have been told."""
        known = self._programs.get((namespace, program))
        for each in standstills if known else ():
            assert known is not None
            known.told_at[each.revision] = asyncio.get_running_loop().time()
            known.untold.pop(each.revision, None)

    def forget(self, namespace: str, program: str) -> None:
        """The program is gone."""
        known = self._programs.pop((namespace, program), None)
        if known is not None and known.task is not None:
            known.task.cancel()

    def close(self) -> None:
        """Ends every question."""
        for key in list(self._programs):
            self.forget(*key)

    async def _ask(self, namespace: str, program: str, known: _Program, addresses: Mapping[str, str]) -> None:
        try:
            for revision, address in addresses.items():
                async with self._places:
                    await self._ask_revision(known, revision, address)
            for times in (known.answered_at, known.told_at):
                for gone in times.keys() - addresses.keys():
                    del times[gone]
            if known.untold:
                self._wake(namespace, program)
        finally:
            known.task = None

    async def _ask_revision(self, known: _Program, revision: str, address: str) -> None:
        try:
            said = await self._runtimes.standstill(address, revision)
        except RuntimeUnheardError as error:
            log.debug("A pod did not say whether it stood still", revision=revision, error=str(error))
            return
        now = asyncio.get_running_loop().time()
        is_new = said is not None and said.age_seconds <= now - known.answered_at.get(revision, now)
        known.answered_at[revision] = now
        told_at = known.told_at.get(revision)
        if said is not None and is_new and (told_at is None or now - told_at >= TELL_SECONDS):
            known.untold[revision] = said
