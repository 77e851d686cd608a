"""What the pods of a program share, as those see it that use it."""

from __future__ import annotations

from typing import Protocol


class SharedStore(Protocol):
    """Values by key, each for some seconds. What cannot be had is None: no request depends on it."""

    is_up: bool
    """Whether it is asked."""

    async def read(self, *keys: str) -> list[bytes | None] | None:
        """The values of keys."""
        ...

    async def write(self, key: str, value: bytes, seconds: float) -> None:
        """Keeps a value."""
        ...

    async def claim(self, key: str, seconds: float) -> bool | None:
        """Whether nobody else has claimed the key, who has neither dropped it since nor had it for its seconds. Whoever
        is cancelled meanwhile has not."""
        ...

    async def drop(self, key: str) -> None:
        """Forgets a value."""
        ...

    async def tally(self, key: str, pod: str, amount: int, seconds: float) -> int | None:
        """The sum of what all pods have said last below a key: this one says `amount`. To say it twice changes
        nothing."""
        ...
