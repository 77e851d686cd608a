"""One loaded program with all that its requests need, put together."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dspy_contract.description import DROPPED_SETTINGS, UNDERIVABLE
from dspy_runtime.admission import Admission
from dspy_runtime.cache.stage import Cache
from dspy_runtime.cache.tiers import Tiers
from dspy_runtime.call_observer import CallObserver
from dspy_runtime.daily_budget import DailyBudget
from dspy_runtime.exchange import chained
from dspy_runtime.guardrails import Guardrails
from dspy_runtime.last_resort import LastResort
from dspy_runtime.lm.models import LanguageModels
from dspy_runtime.lm.replace import replace_models
from dspy_runtime.load import Loaded
from dspy_runtime.metrics import Metrics
from dspy_runtime.own_dspy import own_dspy
from dspy_runtime.pipeline import Pipeline
from dspy_runtime.running import Runner, contain_exits
from dspy_runtime.schema import derive
from dspy_runtime.settings import Settings
from dspy_runtime.shared_store import SharedStore
from dspy_runtime.sockets import Sockets
from dspy_runtime.stages import admit, parse, serialise, shed
from dspy_runtime.streaming import Streams
from dspy_runtime.watchdog import DEAD_SECONDS, Watchdog

if TYPE_CHECKING:
    from dspy_runtime.redis_store import RedisStore


class PredictionService:
    """A program that serves: its pipeline, its language models, and what it says of itself."""

    def __init__(self, loaded: Loaded, settings: Settings) -> None:
        """Raises LMConfigurationError for a language model that no request could call, and SchemaError."""
        self.settings = settings
        self.schema = derive(loaded.program, settings.given_schema)
        admission = Admission(settings.concurrency, settings.queue)
        self.metrics = Metrics(settings.revision, admission)
        self._store = _store(settings)
        self._budget = DailyBudget(settings.budget, self._store) if settings.budget else None
        self.models = LanguageModels(settings.lm, CallObserver(self.metrics, self._budget), self._budget)
        self.metrics.watch_breakers(self.models.breakers())
        if (budget := self._budget) is not None:
            self.metrics.watch_budget(budget.usd, lambda: budget.spent_usd)
        if (store := self._store) is not None:
            self.metrics.watch_redis(lambda: store.is_up)
        self._cache = _cache(settings, self._store, self.metrics)
        self._replaced = replace_models(loaded.program, self.models)
        self._loaded = loaded
        # Places of requests that wait for their next try are lent, so that more threads than places may run.
        streams = Streams(loaded.program, self.schema.text_fields())
        self.runner = Runner(loaded.program, streams, settings.concurrency + settings.queue, self.metrics)
        stages = (
            *([self._cache.stage] if self._cache else []),
            *([self._budget.stage] if self._budget else []),
            shed(admission),
            parse(self.schema),
            admit(admission, bool(self.models.stand_ins())),
            *([Guardrails(settings.guardrails, self.metrics).stage()] if settings.guardrails else []),
            serialise(self.schema),
        )
        last_resort = LastResort(settings.lm.last_resort, self.schema)
        self.pipeline = Pipeline(chained(stages, self.runner.run), settings, self.metrics, last_resort)
        self.sockets = Sockets()
        self.watchdog = Watchdog(self.metrics, settings.revision)
        self._home: asyncio.AbstractEventLoop | None = None
        self.ready = False
        """True while new requests are welcome."""

    def own_process(self) -> None:
        """Makes the process this program's: see own_dspy."""
        self._home = loop = asyncio.get_running_loop()
        self.models.live_on(loop)
        contain_exits(loop)
        own_dspy(self._loaded.program, self.models, self._loaded.settings, self.settings.log_messages)

    def open(self) -> None:
        """From now on requests are welcome."""
        self.ready = True

    def close(self) -> None:
        """No more requests are wanted; those in flight go on."""
        self.ready = False

    def lasting(self) -> list[Coroutine[Any, Any, None]]:
        """What is to go on for as long as the process does."""
        found = [self.models.follow_keys(), self.watchdog.beat()]
        found += [self._store.watch()] if self._store else []
        return found + ([self._budget.follow()] if self._budget else [])

    async def forget_answers(self) -> bool:
        """Forgets the answers that are kept; False where other pods still have them. From any loop."""
        assert self._home is not None
        if self._cache is None:
            return True
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._cache.forget(), self._home))

    async def aclose(self) -> None:
        """Closes all connections, after the last request."""
        await self.models.aclose()
        if self._budget is not None:
            await self._budget.count()
        if self._cache is not None:
            await self._cache.aclose()
        if self._store is not None:
            await self._store.aclose()

    def is_alive(self) -> bool:
        """False when only a new process helps: the loop stands still, or threads that hang take more than half of the
        places."""
        return self.watchdog.lag_seconds() < DEAD_SECONDS and self.runner.abandoned * 2 <= self.settings.concurrency

    def describe(self) -> dict[str, Any]:
        """The answer of `/schema`: what the program takes and returns, and what of the artifact is not in force."""
        return {
            **self.schema.document(),
            "languageModels": [asdict(each) for each in self._replaced],
            **self.left_out(),
        }

    def left_out(self) -> dict[str, Any]:
        """What the operator tells of the version: saved settings that are not in force, parameters whose types are not
        known."""
        return {DROPPED_SETTINGS: list(self._loaded.dropped), UNDERIVABLE: list(self.schema.underivable)}


def _store(settings: Settings) -> RedisStore | None:
    if settings.redis is None:
        return None
    from dspy_runtime.redis_store import RedisStore  # it takes long to import, and most programs have none

    return RedisStore(settings.redis, settings.program or settings.model)


def _cache(settings: Settings, store: SharedStore | None, metrics: Metrics) -> Cache | None:
    given = settings.cache
    if given is None:
        return None
    return Cache(Tiers(given, settings.revision or settings.model, store, metrics), given.version)
