"""Dispatches keys to their reconcilers, and says what each kind of error means for its next try."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import Counter, Histogram

from dspy_contract.logs import Logger
from dspy_kube.client import UNREACHABLE, ApiException, ConflictException
from dspy_operator.errors import InvalidSpecError, RetryError
from dspy_operator.kube.execute import api_message
from dspy_operator.reconcile.gateway import GatewayReconciler
from dspy_operator.reconcile.program import ProgramReconciler
from dspy_operator.workqueue import Key

PASSES = Counter("dspy_operator_passes", "Passes by kind of key and result.", ["kind", "result"])
SECONDS = Histogram("dspy_operator_pass_seconds", "Duration of a pass.", ["kind"])
CONFLICT_SECONDS, QUICK_CONFLICTS = 0.02, 3
"""After a conflict the next try is at once, a few times: one that lasts is no race."""

REFUSED_SECONDS = 10.0
LONGEST_MESSAGE = 500
log = Logger(__name__)


class Controller:
    """Works on keys of both kinds. `worked_at` is when a pass last succeeded, by the clock."""

    def __init__(
        self,
        programs: ProgramReconciler,
        gateways: GatewayReconciler,
        wake: Callable[[Key], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._programs = programs
        self._gateways = gateways
        self._wake = wake
        self._clock = clock
        self.worked_at = clock()
        self._conflicts: dict[Key, int] = {}

    async def work(self, key: Key) -> float | None:
        """One pass; returns after how many seconds the key wants another. Raises RetryError to be tried again."""
        started = time.perf_counter()
        result = "done"
        try:
            delay = await self._work(key)
            self.worked_at = self._clock()
            self._conflicts.pop(key, None)
            return delay
        except ConflictException as error:
            result = "conflict"
            conflicts = self._conflicts[key] = self._conflicts.get(key, 0) + 1
            if conflicts > QUICK_CONFLICTS:
                raise RetryError from error
            return CONFLICT_SECONDS
        except (ApiException, RetryError, *UNREACHABLE) as error:
            result = "failed"
            log.warning("A pass failed and is tried again", key=str(key), error=_brief(error.__cause__ or error))
            raise error if isinstance(error, RetryError) else RetryError from error
        except InvalidSpecError as error:
            result = "refused"
            log.error("A key cannot be carried out", key=str(key), reason=error.reason, error=error.message)
            return REFUSED_SECONDS
        except Exception as error:
            result = "bug"
            log.exception("A pass failed unexpectedly", key=str(key))
            raise RetryError from error
        finally:
            PASSES.labels(key.kind, result).inc()
            SECONDS.labels(key.kind).observe(time.perf_counter() - started)

    async def _work(self, key: Key) -> float | None:
        if key.kind == "program":
            return await self._programs.work(key.namespace, key.name)
        delay, changed = await self._gateways.work(key.namespace, self._clock())
        for program in changed:
            self._wake(Key("program", key.namespace, program))
        return delay


def _brief(error: BaseException) -> str:
    return (
        f"{error.status} {api_message(error)}"[:LONGEST_MESSAGE]
        if isinstance(error, ApiException)
        else type(error).__name__
    )
