"""One loaded program with all that its requests need, put together."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from dspy_contract.description import DROPPED_SETTINGS, UNDERIVABLE
from dspy_runtime.admission import Admission
from dspy_runtime.call_observer import CallObserver
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
from dspy_runtime.stages import admit, parse, serialise, shed
from dspy_runtime.streaming import Streams
from dspy_runtime.watchdog import DEAD_SECONDS, Watchdog


class PredictionService:
    """A program that serves: its pipeline, its language models, and what it says of itself."""

    def __init__(self, loaded: Loaded, settings: Settings) -> None:
        """Raises LMConfigurationError for a language model that no request could call, and SchemaError."""
        self.settings = settings
        self.schema = derive(loaded.program, settings.given_schema)
        admission = Admission(settings.concurrency, settings.queue)
        self.metrics = Metrics(settings.revision, admission)
        self.models = LanguageModels(settings.lm, CallObserver(self.metrics))
        self.metrics.watch_breakers(self.models.breakers())
        self._replaced = replace_models(loaded.program, self.models)
        self._loaded = loaded
        # Places of requests that wait for their next try are lent, so that more threads than places may run.
        streams = Streams(loaded.program, self.schema.text_fields())
        self.runner = Runner(loaded.program, streams, settings.concurrency + settings.queue, self.metrics)
        guardrails = [Guardrails(settings.guardrails, self.metrics).stage()] if settings.guardrails else []
        stages = (
            shed(admission),
            parse(self.schema),
            admit(admission, bool(self.models.stand_ins())),
            *guardrails,
            serialise(self.schema),
        )
        last_resort = LastResort(settings.lm.last_resort, self.schema)
        self.pipeline = Pipeline(chained(stages, self.runner.run), settings, self.metrics, last_resort)
        self.watchdog = Watchdog(self.metrics, settings.revision)
        self.ready = False
        """True while new requests are welcome."""

    def own_process(self) -> None:
        """Makes the process this program's: see own_dspy."""
        loop = asyncio.get_running_loop()
        self.models.live_on(loop)
        contain_exits(loop)
        own_dspy(self._loaded.program, self.models, self._loaded.settings, self.settings.log_messages)

    def open(self) -> None:
        """From now on requests are welcome."""
        self.ready = True

    def close(self) -> None:
        """No more requests are wanted; those in flight go on."""
        self.ready = False

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
