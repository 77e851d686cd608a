"""One loaded program and its pipeline: each request is parsed, admitted, run and serialised, and its outcome told."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from typing import Any

import dspy
from dspy.lm15 import Usage

from dspy_contract.logs import Logger
from dspy_runtime import outcomes
from dspy_runtime.admission import Admission
from dspy_runtime.error_report import report
from dspy_runtime.exchange import Exchange
from dspy_runtime.library_logs import take_over
from dspy_runtime.lm.embeddings import carry_embeddings
from dspy_runtime.lm.models import LanguageModels
from dspy_runtime.lm.replace import replace_models
from dspy_runtime.load import Loaded
from dspy_runtime.metrics import Metrics
from dspy_runtime.progress import share_bars
from dspy_runtime.rendering import remember_rendering
from dspy_runtime.running import Runner
from dspy_runtime.schema import derive
from dspy_runtime.settings import Settings
from dspy_runtime.stages import admit, parse, serialise
from dspy_runtime.watchdog import DEAD_SECONDS, Watchdog

LONGEST_TRACE = 1_000
"""Entries of the trace of a thread that belongs to no request; each request has a trace of its own."""
log = Logger(__name__)


class PredictionService:
    """One loaded program with all that a request needs."""

    def __init__(self, loaded: Loaded, settings: Settings) -> None:
        """Raises LMConfigurationError for a language model that no request could call."""
        self.program = loaded.program
        self.schema = derive(self.program, settings.given_schema)
        self.settings = settings
        self.admission = Admission(settings.concurrency, settings.queue)
        self.metrics = Metrics(settings.revision, self.admission)
        self.models = LanguageModels(settings.lm, self._record_tokens)
        self.replaced = replace_models(self.program, self.models)
        carry_embeddings(self.models)
        self.dropped_settings = loaded.dropped
        self.ready = False
        """True while new requests are welcome."""
        self.watchdog = Watchdog(self.metrics, settings.revision)
        self._kept_settings = loaded.settings
        # Places of requests that wait for their next try are lent, so that more threads than places may run.
        self.runner = Runner(self.program, settings.concurrency + settings.queue, self.metrics)
        schema = self.schema
        self._stages = (parse(schema), admit(self.admission), self.runner.run, serialise(schema))

    def own_dspy(self) -> None:
        """Sets DSPy up for the whole process, so that threads that the program starts itself find the same as its
        author's did. To be called by the task that outlives all others: no other may change DSPy's settings then."""
        loop = asyncio.get_running_loop()
        self.models.live_on(loop)
        take_over(self.settings.log_messages)
        kept = {"adapter": dspy.ChatAdapter(), **self._kept_settings}
        kept["adapter"] = remember_rendering(kept["adapter"])
        dspy.configure(lm=self.models.default.lm, disable_history=True, max_trace_size=LONGEST_TRACE, **kept)
        dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
        share_bars()

    def open(self) -> None:
        """From now on requests are welcome."""
        self.ready = True

    def close(self) -> None:
        """No more requests are wanted; those in flight go on."""
        self.ready = False

    def is_alive(self) -> bool:
        """False when only a new process helps: the loop stands still, or threads that hang take half of the places."""
        return self.watchdog.lag_seconds() < DEAD_SECONDS and self.runner.abandoned * 2 <= self.settings.concurrency

    def describe(self) -> dict[str, Any]:
        """The answer of `/schema`: what the program takes and returns, and what of the artifact is not in force."""
        return {
            **self.schema.document(),
            "languageModels": [asdict(each) for each in self.replaced],
            **self.left_out(),
        }

    def left_out(self) -> dict[str, Any]:
        """What the operator tells of the version: saved settings that are not in force, parameters whose types are not
        known."""
        return {"droppedSettings": list(self.dropped_settings), "underivable": list(self.schema.underivable)}

    async def predict(self, exchange: Exchange) -> None:
        """Carries a request through its stages to its outcome, whatever the program raises."""
        deadline = asyncio.timeout(self.settings.timeout_seconds)
        try:
            async with deadline:
                exchange.ends_at = deadline.when() or 0.0
                for stage in self._stages:
                    await stage(exchange)
                    if exchange.outcome is not None:
                        break
        except BaseException as error:  # a program may raise anything, SystemExit included: it ends this request only
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                self.metrics.record_cancelled()
                raise
            self._fail(exchange, error, deadline.expired())
        finally:
            if exchange.place is not None:
                exchange.place.leave()
        self.record(exchange)

    def record(self, exchange: Exchange) -> None:
        """Counts an exchange that has ended."""
        assert exchange.outcome is not None
        self.metrics.record(exchange.outcome.name, time.perf_counter() - exchange.started)

    def _fail(self, exchange: Exchange, error: BaseException, expired: bool) -> None:
        """Ends an exchange for what its program raised, and logs what may be said of it."""
        if not exchange.admitted:
            exchange.end(outcomes.OVERLOADED)
            return
        outcome = outcomes.TIMEOUT if expired else outcomes.of_exception(error)
        exchange.end(outcome)
        log.error(
            "A request failed",
            request_id=exchange.request_id,
            client_request_id=exchange.client_request_id,
            revision=self.settings.revision,
            outcome=outcome.name,
            code=outcome.code,
            **report(error, self.settings.log_messages),
        )

    def _record_tokens(self, lm: str, usage: Usage) -> None:
        self.metrics.record_tokens(lm, usage.input_tokens, usage.output_tokens)
