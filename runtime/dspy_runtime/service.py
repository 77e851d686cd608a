"""One loaded program with all that a request needs: input checked, a place taken, the program run, its outcome told."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy
from dspy.utils.usage_tracker import track_usage
from pydantic_core import to_json

from dspy_contract.logs import Logger
from dspy_runtime import outcomes, schema
from dspy_runtime.admission import Admission, OverloadedError
from dspy_runtime.error_report import report
from dspy_runtime.lm import LanguageModel
from dspy_runtime.metrics import Metrics
from dspy_runtime.outcomes import Outcome
from dspy_runtime.settings import Settings

log = Logger(__name__)


class PredictionService:
    """One loaded program with all that a request needs."""

    def __init__(self, program: Any, adapter: Any, lm: LanguageModel, settings: Settings) -> None:
        self.program = program
        self.schema = schema.derive(program)
        self.lm = lm
        self.settings = settings
        self.admission = Admission(settings.concurrency, settings.queue)
        self.metrics = Metrics(settings.revision, self.admission)
        self.draining = False
        self._adapter = adapter or dspy.ChatAdapter()
        self._async = schema.is_async(program)
        self._threads = ThreadPoolExecutor(settings.concurrency, "program") if not self._async else None

    async def predict(self, body: bytes, request_id: str = "") -> tuple[Outcome, bytes]:
        """Runs one request to its end, whatever the program raises. Returns its outcome and the answer's JSON."""
        started = time.perf_counter()
        usage: Mapping[str, Any] = {}
        try:
            arguments = self.schema.arguments(body)
        except Exception as error:  # types of the program check themselves, and may raise anything
            outcome, fields = outcomes.of_invalid_input(error)
            self.metrics.record(outcome.name, time.perf_counter() - started, usage)
            return outcome, problem(outcome, fields)
        with track_usage() as tracker:
            outcome, answer = await self._run(arguments, request_id)
        usage = tracker.get_total_tokens()
        self.metrics.record(outcome.name, time.perf_counter() - started, usage)
        return outcome, answer

    async def _run(self, arguments: dict[str, Any], request_id: str) -> tuple[Outcome, bytes]:
        try:
            async with asyncio.timeout(self.settings.timeout_seconds):
                leave = await self.admission.enter()
                with dspy.context(lm=self.lm.current.lm, adapter=self._adapter, disable_history=True, trace=None):
                    if self._threads is None:
                        try:
                            prediction = await self.program.acall(**arguments)
                        finally:
                            leave()
                    else:
                        prediction = await self._in_thread(arguments, leave)
            return outcomes.OK, to_json(self.schema.fields(prediction))
        except OverloadedError:
            return outcomes.OVERLOADED, problem(outcomes.OVERLOADED)
        except BaseException as error:  # a program may raise anything, SystemExit included: it ends this request only
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                self.metrics.record_cancelled()
                raise
            outcome = outcomes.of_exception(error)
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

    async def _in_thread(self, arguments: dict[str, Any], leave: Any) -> Any:
        """Runs a program that cannot be awaited. Its place is free only when its thread is, whoever waits for it."""
        call = functools.partial(contextvars.copy_context().run, self.program, **arguments)
        try:
            future = asyncio.get_running_loop().run_in_executor(self._threads, call)
        except RuntimeError:  # no more threads
            leave()
            raise
        future.add_done_callback(lambda done: (leave(), done.cancelled() or done.exception()))
        return await asyncio.shield(future)


def problem(outcome: Outcome, fields: list[dict[str, str]] | None = None) -> bytes:
    """The body of an answer that is none: outcome, code, message, and the fields that are wrong."""
    error: dict[str, Any] = {"outcome": outcome.name, "code": outcome.code, "message": outcome.message}
    return to_json({"error": error | ({"fields": fields} if fields else {})})
