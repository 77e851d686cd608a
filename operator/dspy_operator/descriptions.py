"""Asks a pod of a revision, once, what of its version is not in force there: only the pod, which has loaded the
version's pickle, knows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dspy_contract.logs import Logger
from dspy_operator.domain.snapshot import Description
from dspy_operator.runtime_client import Runtimes, RuntimeUnheardError

ASKED_AT_ONCE = 8
AGAIN_SECONDS = 60.0
"""A pod that did not answer is asked again after this long, if a pass still wants to know."""

log = Logger(__name__)


class Descriptions:
    """What the newest revisions of programs said of themselves, until it is written down."""

    def __init__(self, runtimes: Runtimes, wake: Callable[[str, str], None]) -> None:
        """`wake` hears the namespace and name of a program whose revision has answered."""
        self._runtimes = runtimes
        self._wake = wake
        self._known: dict[tuple[str, str], Description] = {}
        self._asking: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._places = asyncio.Semaphore(ASKED_AT_ONCE)

    def of(self, namespace: str, program: str, revision: str, address: str) -> Description | None:
        """What a program's revision said of itself; None while it is being asked."""
        key = (namespace, program)
        known = self._known.get(key)
        if known is not None and known.revision == revision:
            return known
        if key not in self._asking:
            self._asking[key] = asyncio.create_task(self._ask(key, revision, address))
        return None

    def forget(self, namespace: str, program: str) -> None:
        """It is written down, or the program is gone."""
        self._known.pop((namespace, program), None)

    def close(self) -> None:
        """Ends every question."""
        for task in self._asking.values():
            task.cancel()

    async def _ask(self, key: tuple[str, str], revision: str, address: str) -> None:
        try:
            async with self._places:
                self._known[key] = await self._runtimes.describe(address, revision)
            self._wake(*key)
        except RuntimeUnheardError as error:
            log.debug("A pod did not describe itself", namespace=key[0], revision=revision, error=str(error))
            await asyncio.sleep(AGAIN_SECONDS)
        finally:
            del self._asking[key]
