"""The stage that answers again what was answered before, and has made once what many ask at the same time."""

from __future__ import annotations

import asyncio
import time

from dspy_contract.outcomes import FALLBACK_FLAG
from dspy_runtime import endings
from dspy_runtime.cache.entry import Entry, key_of
from dspy_runtime.cache.tiers import Claim, Tiers
from dspy_runtime.exchange import Cached, CacheUse, Exchange, Next


class Cache:
    """The answers of one revision, and those that are being made now."""

    def __init__(self, tiers: Tiers, version: str) -> None:
        self._tiers = tiers
        self._version = version
        self._making: dict[str, Making] = {}

    async def stage(self, exchange: Exchange, inner: Next) -> None:
        """Answers from what is kept, or has the answer made and keeps it."""
        key = None if exchange.cache_use is CacheUse.NONE else key_of(exchange.body, self._version)
        exchange.cached = Cached.MISS if key and exchange.cache_use is CacheUse.FULL else Cached.BYPASS
        if key is None:
            await inner(exchange)
        elif exchange.cache_use is CacheUse.FULL:
            await self._answer(exchange, inner, key)
        else:
            if exchange.cache_use is CacheUse.JUDGED and (entry := self._tiers.kept(key)) is not None:
                exchange.stale = entry.answer
            await self._make(exchange, inner, key)

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
            # Whoever leaves does not end what others wait for, and whoever does not end holds up nobody for ever.
            await asyncio.wait([making.done], timeout=max(making.until - time.monotonic(), 0))
            if not making.done.cancelled():
                entry = making.done.result() if making.done.done() else None
                if entry is not None:
                    self._tiers.joined()
                else:
                    self._fresh(exchange, self._tiers.kept(key))
                await self._give_or_make(exchange, inner, key, entry)
                return
        await self._be_first(exchange, inner, key)

    async def _be_first(self, exchange: Exchange, inner: Next, key: str) -> None:
        """Has the answer made, and gives it to those who ask meanwhile. None of them is bound to this client: when it
        leaves, another is the first."""
        making = self._making[key] = Making(exchange.deadline)
        entry = None
        try:
            entry = self._fresh(exchange, await self._tiers.ask(key))
            claim = None if entry else await self._tiers.claim(key)
            if entry is None and claim is None:
                entry = await self._tiers.await_other(key, exchange.deadline)
            entry = await self._give_or_make(exchange, inner, key, entry, claim)
        except asyncio.CancelledError:
            making.done.cancel()
            raise
        finally:
            del self._making[key]
            if not making.done.done():
                making.done.set_result(entry)

    def _fresh(self, exchange: Exchange, entry: Entry | None) -> Entry | None:
        """An entry that may be given as if it were new. One that is old may be given when there is no new one."""
        if entry is None or self._tiers.is_fresh(entry):
            return entry
        exchange.stale = entry.answer
        return None

    async def _give_or_make(
        self, exchange: Exchange, inner: Next, key: str, entry: Entry | None, claim: Claim | None = None
    ) -> Entry | None:
        if entry is None:
            return await self._make(exchange, inner, key, claim)
        _give(exchange, entry)
        return entry

    async def _make(self, exchange: Exchange, inner: Next, key: str, claim: Claim | None = None) -> Entry | None:
        """Has the answer made and keeps it, if it is good."""
        begun_at, entry = time.time(), None
        try:
            await inner(exchange)
            if exchange.ending is endings.OK and FALLBACK_FLAG not in exchange.flags:
                entry = Entry(exchange.answer, exchange.flags, exchange.score, begun_at)
        finally:
            if entry is None:
                self._tiers.give_up(claim)
            else:
                self._tiers.put(key, entry, claim)
        return entry


class Making:
    """An answer that is being made: until when anybody waits for it (time of time.monotonic), and what it is."""

    def __init__(self, until: float) -> None:
        self.until = until
        self.done: asyncio.Future[Entry | None] = asyncio.get_running_loop().create_future()


def _give(exchange: Exchange, entry: Entry) -> None:
    """Ends an exchange with an answer that was made before: it takes nothing now."""
    exchange.answer, exchange.flags, exchange.score = entry.answer, entry.flags, entry.score
    exchange.cached, exchange.cost = Cached.HIT, 0
    exchange.ending = endings.OK
