"""What the calls of language models may cost in a day, over all pods where they share a Redis.

Spending is noted by whatever thread a call ends on, and counted a few times a second: what is in flight when the budget
is spent goes beyond it.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable

from dspy_contract.outcomes import NANO_USD
from dspy_runtime import endings
from dspy_runtime.exchange import Exchange, Next
from dspy_runtime.settings import BudgetSettings
from dspy_runtime.shared_store import SharedStore

COUNT_SECONDS = 0.25
DAY_SECONDS = 86_400


class DailyBudget:
    """The budget, and what of it is spent since midnight UTC."""

    def __init__(
        self, settings: BudgetSettings, shared: SharedStore | None, clock: Callable[[], float] = time.time
    ) -> None:
        self.usd = settings.usd_per_day
        self._limit = round(settings.usd_per_day * NANO_USD)
        self._rejects = settings.on_exceeded == "Reject"
        self._shared = shared
        self._clock = clock
        self._noted: deque[int] = deque()
        self._pod = secrets.token_hex(8)
        self._day = 0
        self._own = 0
        """What this pod has spent."""
        self._spent = 0
        """What all have, as far as this one knows."""
        self.is_spent = False

    @property
    def spent_usd(self) -> float:
        """US dollars spent today, as far as this pod knows."""
        return self._spent / NANO_USD

    def note(self, nano_usd: int) -> None:
        """An answer has cost so much. From any thread."""
        self._noted.append(nano_usd)

    async def count(self) -> None:
        """Counts what was noted, and tells and asks the other pods."""
        day = int(self._clock() // DAY_SECONDS)
        if day != self._day:
            self._day, self._own, self._spent = day, 0, 0
        while self._noted:
            noted = self._noted.popleft()
            self._own += noted
            self._spent += noted
        if self._shared is not None:
            total = await self._shared.tally(f"spent:{day}", self._pod, self._own, 2 * DAY_SECONDS)
            if total is not None:
                self._spent = total
        self.is_spent = self._spent >= self._limit

    async def follow(self) -> None:
        """Counts for ever."""
        while True:
            await self.count()
            await asyncio.sleep(COUNT_SECONDS)

    def bars_models(self) -> bool:
        """Whether only models that stand in for others are to be asked. From any thread."""
        return self.is_spent and not self._rejects

    async def stage(self, exchange: Exchange, inner: Next) -> None:
        """Refuses what would cost more than there is."""
        if self.is_spent and self._rejects:
            exchange.end(endings.over_budget(DAY_SECONDS - int(self._clock()) % DAY_SECONDS))
        else:
            await inner(exchange)
