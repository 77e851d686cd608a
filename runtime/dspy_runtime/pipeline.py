"""Carries each request through its stages to its end, and tells of it: once, whatever the program raises."""

from __future__ import annotations

import asyncio
import time

from dspy_contract.logs import Logger
from dspy_contract.outcomes import FAILURES, Outcome
from dspy_runtime import endings
from dspy_runtime.endings import Ending
from dspy_runtime.error_report import report
from dspy_runtime.exchange import Exchange, Next
from dspy_runtime.last_resort import LastResort
from dspy_runtime.lm.trace_context import trace_id
from dspy_runtime.metrics import Metrics
from dspy_runtime.settings import Settings

log = Logger(__name__)


class Pipeline:
    """The stages of a program, under the deadline of each request."""

    def __init__(self, stages: Next, settings: Settings, metrics: Metrics, last_resort: LastResort) -> None:
        self._stages = stages
        self._last_resort = last_resort
        self._settings = settings
        self._metrics = metrics

    async def carry(self, exchange: Exchange) -> None:
        """Carries a request to its end. Raises CancelledError for one that nobody waits for any more."""
        seconds = min(self._settings.timeout_seconds, exchange.most_seconds)
        exchange.deadline = time.monotonic() + seconds
        deadline = asyncio.timeout(seconds)
        try:
            async with deadline:
                await self._stages(exchange)
            if deadline.expired():  # and the program went on all the same
                exchange.end(exchange.late)
        except BaseException as error:  # a program may raise anything, SystemExit included: it ends this request only
            if deadline.expired():
                # All of its time went by in the queue, unless its client would not wait any longer.
                waited = exchange.queued and exchange.late is endings.TIMEOUT
                exchange.end(endings.OVERLOADED if waited else exchange.late, error=None if waited else error)
            elif isinstance(error, asyncio.CancelledError) and exchange.abandoned:
                exchange.end(endings.CANCELLED)
                raise
            else:
                exchange.end(endings.of_exception(error), error=error)
        finally:
            self.finish(exchange)

    def ended_early(self, exchange: Exchange, ending: Ending) -> Exchange:
        """The answer of an exchange whose program does not end: it is counted when that does."""
        early = Exchange(
            exchange.client_request_id,
            exchange.request_id,
            parts=exchange.parts,
            cached=exchange.cached,
            stale=exchange.stale,
        )
        early.end(ending)
        self._last_resort.stand_in(early)
        return early

    def finish(self, exchange: Exchange) -> None:
        """Counts an exchange that has ended, and logs a failure, as far as that may be said."""
        self._last_resort.stand_in(exchange)
        ending, error = exchange.ending, exchange.error
        assert ending is not None
        # How long a request whose client left would have taken is not known.
        seconds = None if ending.outcome is Outcome.CANCELLED else time.perf_counter() - exchange.started
        self._metrics.record(ending.outcome, seconds)
        if error is not None or ending.outcome in FAILURES:
            log.error(
                "A request failed",
                request_id=exchange.request_id,
                client_request_id=exchange.client_request_id,
                **({"trace_id": trace_id(exchange.trace)} if exchange.trace else {}),
                revision=self._settings.revision,
                outcome=ending.outcome,
                code=ending.code,
                **(report(error, self._settings.log_messages) if error else {}),
            )
        exchange.forget()
