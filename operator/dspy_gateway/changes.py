"""What changed when, by program, and who waits to hear of it: a poll is answered with what its caller does not know.

A token names a place in this process' history; one of another process knows nothing of this one's.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection, Iterable


class Changes:
    """Changes of programs, by uid. Urgent ones end a wait; the others are told with the next answer."""

    def __init__(self) -> None:
        self._process = secrets.token_hex(4)
        self._sequence = 0
        self._changed_at: dict[str, int] = {}
        self._urgent_at: dict[str, int] = {}
        self._heard = asyncio.Condition()

    @property
    def token(self) -> str:
        """Names the present."""
        return f"{self._process}-{self._sequence}"

    def note(self, uids: Iterable[str], urgent: bool) -> None:
        """Something of these programs has changed; `tell` wakes who waits."""
        self._sequence += 1
        for uid in uids:
            self._changed_at[uid] = self._sequence
            if urgent:
                self._urgent_at[uid] = self._sequence

    def since(self, uids: Iterable[str], token: str) -> list[str]:
        """Those of the programs that have changed since a token; all of them for one that knows nothing."""
        seen = self._place(token)
        return [uid for uid in uids if seen < 0 or self._changed_at.get(uid, 0) > seen]

    async def wait(self, uids: Collection[str], token: str, seconds: float) -> None:
        """Waits for something urgent about one of the programs since a token, for at most so long."""
        seen = self._place(token)
        try:
            async with asyncio.timeout(seconds), self._heard:
                await self._heard.wait_for(lambda: any(self._urgent_at.get(uid, 0) > seen for uid in uids))
        except TimeoutError:
            return

    async def tell(self) -> None:
        """Wakes those who wait, to see whether what was noted concerns them."""
        async with self._heard:
            self._heard.notify_all()

    def forget_programs(self, living: Collection[str]) -> None:
        """Forgets programs that are gone."""
        for memory in (self._changed_at, self._urgent_at):
            for uid in memory.keys() - set(living):
                del memory[uid]

    def _place(self, token: str) -> int:
        process, _, number = token.partition("-")
        return int(number) if process == self._process and number.isdigit() else -1
