"""Watches the loop of the requests from another thread, and names what of the program holds it up."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass
from typing import Any

from dspy_contract.description import AGE_SECONDS, FRAMES, SECONDS
from dspy_contract.logs import Logger
from dspy_runtime.error_report import frames_of_thread
from dspy_runtime.metrics import Metrics

BEAT_SECONDS = 0.1
TELL_SECONDS = 1.0
"""How long a loop may stand still before it is told of."""
DEAD_SECONDS = 60.0
"""After so long nobody believes that it will go on."""
log = Logger(__name__)


@dataclass(frozen=True, slots=True)
class _Standstill:
    """How long the loop had stood still when it was last seen standing, when that was, and where the program was."""

    seconds: float
    seen: float
    frames: list[str]


class Watchdog:
    """How late the loop is. One that blocks answers no request, so that a program that blocks costs all the others."""

    def __init__(self, metrics: Metrics, revision: str) -> None:
        self._metrics = metrics
        self._revision = revision
        self._thread = threading.get_ident()
        self._beaten = time.monotonic()
        self._last: _Standstill | None = None

    def standstill(self) -> dict[str, Any] | None:
        """The last time that the loop stood still for long, as `/standstill` tells it."""
        last = self._last
        if last is None:
            return None
        age = time.monotonic() - last.seen
        return {SECONDS: round(last.seconds, 1), AGE_SECONDS: round(age, 1), FRAMES: last.frames}

    def lag_seconds(self) -> float:
        """For how long the loop has stood still."""
        return max(0.0, time.monotonic() - self._beaten - BEAT_SECONDS)

    async def beat(self) -> None:
        """Runs on the loop that is watched, for ever."""
        self._thread = threading.get_ident()
        while True:
            now = time.monotonic()
            late = now - self._beaten - BEAT_SECONDS
            if late > BEAT_SECONDS:
                self._metrics.record_blocked(late)
            self._beaten = now
            await asyncio.sleep(BEAT_SECONDS)

    async def watch(self) -> None:
        """Runs on another thread's loop, for ever; tells once of each time that the loop stands still."""
        told = False
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            lag = self.lag_seconds()
            if lag <= TELL_SECONDS:
                told = False
                continue
            self._last = _Standstill(lag, time.monotonic(), frames_of_thread(self._thread))
            if not told:
                blocks = "The program holds up all requests: it blocks the event loop"
                log.warning(
                    blocks if self._last.frames else "All requests are held up, and not by a line of the program",
                    revision=self._revision,
                    seconds=round(lag, 1),
                    frames=self._last.frames,
                )
            told = True
