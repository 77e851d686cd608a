"""Has the pods of a program forget the answers that they keep, as a person asks by an annotation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from dspy_contract.logs import Logger
from dspy_operator.runtime_client import Runtimes, RuntimeUnheardError

ASKED_AT_ONCE = 8
AGAIN_SECONDS = 5.0

log = Logger(__name__)


class Forgetting:
    """What programs are to forget, until every pod has."""

    def __init__(self, runtimes: Runtimes, wake: Callable[[str, str], None]) -> None:
        """`wake` hears the namespace and name of a program whose pods have forgotten."""
        self._runtimes = runtimes
        self._wake = wake
        self._asking: dict[tuple[str, str], tuple[str, asyncio.Task[None]]] = {}
        self._done: dict[tuple[str, str], str] = {}
        self._places = asyncio.Semaphore(ASKED_AT_ONCE)

    def of(self, namespace: str, program: str, wish: str, addresses: Collection[str]) -> bool:
        """Whether the pods at these addresses have forgotten, as a wish asks; they are asked until then."""
        key = (namespace, program)
        if self._done.get(key) == wish:
            return True
        asked, task = self._asking.get(key, ("", None))
        if asked != wish or task is None:
            self.forget(*key)
            self._asking[key] = wish, asyncio.create_task(self._ask(key, wish, addresses))
        return False

    def forget(self, namespace: str, program: str) -> None:
        """It is written down, or the program is gone."""
        self._done.pop((namespace, program), None)
        _, task = self._asking.pop((namespace, program), ("", None))
        if task is not None:
            task.cancel()

    def close(self) -> None:
        """Ends every question."""
        for key in list(self._asking):
            self.forget(*key)

    async def _ask(self, key: tuple[str, str], wish: str, addresses: Collection[str]) -> None:
        left = [address for address in addresses if not await self._has_forgotten(key, address)]
        if left:
            await asyncio.sleep(AGAIN_SECONDS)  # the next pass knows which pods there are then
        else:
            self._done[key] = wish
        del self._asking[key]
        self._wake(*key)

    async def _has_forgotten(self, key: tuple[str, str], address: str) -> bool:
        try:
            async with self._places:
                await self._runtimes.forget_answers(address)
        except RuntimeUnheardError as error:
            log.warning("A pod did not forget its answers", namespace=key[0], program=key[1], error=str(error))
            return False
        return True
