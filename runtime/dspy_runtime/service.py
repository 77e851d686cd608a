"""One loaded program with all that a request needs: input checked, a place taken, the program run, its outcome told."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import dspy
from dspy.lm15 import Usage
from pydantic_core import to_json

from dspy_contract.logs import Logger
from dspy_runtime import outcomes, schema
from dspy_runtime.admission import Admission, OverloadedError, Place
from dspy_runtime.answers import answer_json
from dspy_runtime.error_report import report
from dspy_runtime.lm.embeddings import carry_embeddings
from dspy_runtime.lm.models import LanguageModels
from dspy_runtime.lm.replace import replace_models
from dspy_runtime.lm.scope import SCOPE, RequestScope
from dspy_runtime.load import Loaded
from dspy_runtime.metrics import Metrics
from dspy_runtime.outcomes import Outcome
from dspy_runtime.progress import share_bars
from dspy_runtime.settings import Settings
from dspy_runtime.watchdog import DEAD_SECONDS, Watchdog

LONGEST_TRACE = 1_000
"""Entries of the trace of a thread that belongs to no request; each request has a trace of its own."""
log = Logger(__name__)


class PredictionService:
    """One loaded program with all that a request needs."""

    def __init__(self, loaded: Loaded, settings: Settings) -> None:
        """Raises LMConfigurationError for a language model that no request could call."""
        self.program = loaded.program
        self.schema = schema.derive(self.program)
        self.settings = settings
        self.admission = Admission(settings.concurrency, settings.queue)
        self.metrics = Metrics(settings.revision, self.admission)
        self.models = LanguageModels(settings.lm, self._record_tokens)
        self.replaced = replace_models(self.program, self.models)
        carry_embeddings(self.models)
        self.dropped_settings = loaded.dropped
        self.ready = False
        """True while new requests are welcome."""
        self.abandoned = 0
        """Threads that still run a request that has ended."""
        self.watchdog = Watchdog(self.metrics, settings.revision)
        self._kept_settings = loaded.settings
        self._async = schema.is_async(self.program)
        # Places of requests that wait for their next try are lent, so that more threads than places may run.
        threads = settings.concurrency + settings.queue
        self._threads = ThreadPoolExecutor(threads, "program") if not self._async else None

    def own_dspy(self) -> None:
        """Sets DSPy up for the whole process, so that threads that the program starts itself find the same as its
        author's did. To be called by the task that outlives all others: no other may change DSPy's settings then."""
        loop = asyncio.get_running_loop()
        self.models.live_on(loop)
        kept = {"adapter": dspy.ChatAdapter(), **self._kept_settings}
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
        return self.watchdog.lag_seconds() < DEAD_SECONDS and self.abandoned * 2 <= self.settings.concurrency

    def describe(self) -> dict[str, Any]:
        """The answer of `/schema`: what the program takes and returns, and what of the artifact is not in force."""
        return {
            **self.schema.document(),
            "languageModels": [asdict(each) for each in self.replaced],
            "droppedSettings": list(self.dropped_settings),
        }

    async def predict(self, body: bytes, request_id: str = "") -> tuple[Outcome, bytes]:
        """Runs one request to its end, whatever the program raises. Returns its outcome and the answer's JSON."""
        started = time.perf_counter()
        try:
            arguments = self.schema.arguments(body)
        except Exception as error:  # types of the program check themselves, and may raise anything
            outcome, fields = outcomes.of_invalid_input(error)
            answer = problem(outcome, fields)
        else:
            outcome, answer = await self._run(arguments, request_id)
        self.metrics.record(outcome.name, time.perf_counter() - started)
        return outcome, answer

    async def _run(self, arguments: dict[str, Any], request_id: str) -> tuple[Outcome, bytes]:
        deadline = asyncio.timeout(self.settings.timeout_seconds)
        place = None
        try:
            async with deadline:
                place = await self.admission.enter()
                prediction = await self._call(arguments, place, deadline)
            return outcomes.OK, answer_json(self.schema.fields(prediction))
        except OverloadedError:
            return outcomes.OVERLOADED, problem(outcomes.OVERLOADED)
        except BaseException as error:  # a program may raise anything, SystemExit included: it ends this request only
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                self.metrics.record_cancelled()
                raise
            if place is None:
                return outcomes.OVERLOADED, problem(outcomes.OVERLOADED)
            outcome = outcomes.TIMEOUT if deadline.expired() else outcomes.of_exception(error)
            fields = report(error)
            log.error(
                "A request failed",
                request_id=request_id,
                revision=self.settings.revision,
                outcome=outcome.name,
                code=outcome.code,
                **fields,
            )
            return outcome, problem(outcome)

    async def _call(self, arguments: dict[str, Any], place: Place, deadline: asyncio.Timeout) -> Any:
        """Runs the program. Whatever it asked of a language model ends with it."""
        seconds = (deadline.when() or 0.0) - asyncio.get_running_loop().time()
        scope = RequestScope(seconds, place)
        SCOPE.set(scope)
        try:
            with dspy.context(trace=[]):
                if self._threads is not None:
                    return await self._in_thread(arguments, place)
                try:
                    return await self.program.acall(**arguments)
                finally:
                    place.leave()
        finally:
            scope.end()

    def _record_tokens(self, lm: str, usage: Usage) -> None:
        self.metrics.record_tokens(lm, usage.input_tokens, usage.output_tokens)

    async def _in_thread(self, arguments: dict[str, Any], place: Place) -> Any:
        """Runs a program that cannot be awaited. Its place is free only when its thread is, whoever waits for it."""
        call = functools.partial(contextvars.copy_context().run, self.program, **arguments)
        try:
            thread = asyncio.get_running_loop().run_in_executor(self._threads, call)
        except RuntimeError:  # no more threads
            place.leave()
            raise
        thread.add_done_callback(functools.partial(_ended, place))
        try:
            return await asyncio.shield(thread)
        except BaseException:
            if not thread.done():
                self._abandon(thread)
            raise

    def _abandon(self, thread: asyncio.Future[Any]) -> None:
        """Counts a thread whose request has ended until it ends too."""
        self.abandoned += 1
        self.metrics.abandoned.set(self.abandoned)

        def ended(_: asyncio.Future[Any]) -> None:
            self.abandoned -= 1
            self.metrics.abandoned.set(self.abandoned)

        thread.add_done_callback(ended)


def _ended(place: Place, thread: asyncio.Future[Any]) -> None:
    place.leave()
    if not thread.cancelled():
        thread.exception()  # asked for, so that nobody is told of one that nobody waits for


def problem(outcome: Outcome, fields: list[dict[str, str]] | None = None) -> bytes:
    """The body of an answer that is none: outcome, code, message, and the fields that are wrong."""
    error: dict[str, Any] = {"outcome": outcome.name, "code": outcome.code, "message": outcome.message}
    return to_json({"error": error | ({"fields": fields} if fields else {})})
