"""The stage that answers again what was answered before, and has made once what many ask at the same time."""

from __future__ import annotations

import asyncio
import time

from dspy_contract.outcomes import FALLBACK_FLAG
from dspy_runtime import endings
from dspy_runtime.cache.entry import Entry, key_of
from dspy_runtime.cache.tiers import Tiers
from dspy_runtime.exchange import Cached, CacheUse, Exchange, Next


class Cache:
    """The answers of one revision, and those that are being made now."""

    def __init__(self, tiers: Tiers, version: str, claim_seconds: float) -> None:
        """`claim_seconds` is how long the making of an answer may take."""
        self._tiers = tiers
        self._version = version
        self._claim_seconds = claim_seconds
        self._making: dict[str, asyncio.Future[Entry | None]] = {}

    async def stage(self, exchange: Exchange, inner: Next) -> None:
        """Answers from what is kept, or has the answer made and keeps it."""
        key = None if exchange.cache_use is CacheUse.NONE else key_of(exchange.body, self._version)
        if key is None:
            exchange.cached = Cached.BYPASS
            await inner(exchange)
        elif exchange.cache_use is CacheUse.REFRESH:
            exchange.cached = Cached.BYPASS
            await self._make(exchange, inner, key)
        else:
            exchange.cached = Cached.MISS
            await self._answer(exchange, inner, key)

    async def forget(self) -> bool:
        """Forgets all answers; False where other pods still have them."""
        return await self._tiers.forget()

    async def aclose(self) -> None:
        """Ends what is being written."""
        await self._tiers.aclose()

    async def _answer(self, exchange: Exchange, inner: Next, key: str) -> None:
        entry = self._fresh(exchange, self._tiers.recall(key))
        if entry is not None:
            _give(exchange, entry)
        elif exchange.parts is not None:
            # Whoever reads along waits for nobody, and nobody for one who may read slowly.
            await self._give_or_make(exchange, inner, key, self._fresh(exchange, await self._tiers.ask(key)))
        else:
            await self._join(exchange, inner, key)

    async def _join(self, exchange: Exchange, inner: Next, key: str) -> None:
        """Waits for whoever has the answer made already, or is the first to."""
        while (making := self._making.get(key)) is not None:
            await asyncio.wait([making])  # whoever leaves does not end what others wait for
            if not making.cancelled():
                await self._give_or_make(exchange, inner, key, making.result())
                return
        await self._be_first(exchange, inner, key)

    async def _be_first(self, exchange: Exchange, inner: Next, key: str) -> None:
        """Has the answer made, and gives it to those who ask meanwhile. None of them is bound to this client: when it
        leaves, another is the first."""
        making = self._making[key] = asyncio.get_running_loop().create_future()
        entry = None
        try:
            entry = await self._others(exchange, key)
            entry = await self._give_or_make(exchange, inner, key, entry)
        except asyncio.CancelledError:
            making.cancel()
            raise
        finally:
            del self._making[key]
            if not making.done():
                making.set_result(entry)

    async def _others(self, exchange: Exchange, key: str) -> Entry | None:
        """The answer of another pod that has it, or is making it."""
        entry = self._fresh(exchange, await self._tiers.ask(key))
        if entry is not None or await self._tiers.claim(key, self._claim_seconds):
            return entry
        return await self._tiers.await_other(key, (exchange.deadline - time.monotonic()) / 2)

    def _fresh(self, exchange: Exchange, entry: Entry | None) -> Entry | None:
        """An entry that may be given as if it were new. One that is old may be given when there is no new one."""
        if entry is None or self._tiers.is_fresh(entry):
            return entry
        exchange.stale = entry.answer
        return None

    async def _give_or_make(self, exchange: Exchange, inner: Next, key: str, entry: Entry | None) -> Entry | None:
        if entry is None:
            return await self._make(exchange, inner, key)
        _give(exchange, entry)
        return entry

    async def _make(self, exchange: Exchange, inner: Next, key: str) -> Entry | None:
        """Has the answer made and keeps it, if it is good."""
        forgotten, entry = self._tiers.forgotten, None
        try:
            await inner(exchange)
            if exchange.ending is endings.OK and FALLBACK_FLAG not in exchange.flags:
                entry = Entry(exchange.answer, exchange.flags, exchange.score, time.time())
        finally:
            if entry is None:
                self._tiers.release(key)
            else:
                self._tiers.put(key, entry, forgotten)
        return entry


def _give(exchange: Exchange, entry: Entry) -> None:
    """Ends an exchange with an answer that was made before: it takes nothing now."""
    exchange.answer, exchange.flags, exchange.score = entry.answer, entry.flags, entry.score
    exchange.cached, exchange.cost = Cached.HIT, 0
    exchange.ending = endings.OK
