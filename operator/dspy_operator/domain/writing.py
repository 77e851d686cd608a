"""When a status is due: at once for whatever people or the next operator must not miss, every few seconds for numbers.

A message is written as soon as anything but its numbers changes, so that it is never older than its cause. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from dspy_operator.api.times import seconds

LIVE_SECONDS, LIVE_WRITES_A_SECOND = 5.0, 20.0
"""How often live numbers of a rollout are written at most, and how many of all rollouts that move."""

CHECKPOINT_SECONDS, CHECKPOINTS_A_SECOND = 10.0, 50.0
"""The same of a program's evidence and clocks: a restart loses no more of a pause than this."""

_NUMBERS = re.compile(r"[+-]?\d+(\.\d+)?")
_LIVE = ("measuredAt", "errors", "requests", "judgement", "streams", "comparison", "candidates", "effectiveWeights")
_LEDGER_CLOCKS = ("tickedAt", "checkpointedAt")
_RELEASE_CLOCKS = ("evidence", "stepSeconds", "blockedSeconds")

Content = Mapping[str, Any]


def live_seconds(moving: int) -> float:
    """How often each of so many rollouts that move has its live numbers written."""
    return max(LIVE_SECONDS, moving / LIVE_WRITES_A_SECOND)


def checkpoint_seconds(moving: int) -> float:
    """How often each of so many programs has its new evidence written."""
    return max(CHECKPOINT_SECONDS, moving / CHECKPOINTS_A_SECOND)


def is_program_due(content: Content, known: Content, checkpoint: bool) -> bool:
    """True when a program's status should be written. New evidence alone waits for the checkpoint."""
    if _steady(content) != _steady(known):
        return True
    return checkpoint and _lacking(content.get("release", {}), _LEDGER_CLOCKS) != _lacking(
        known.get("release", {}), _LEDGER_CLOCKS
    )


def is_rollout_due(content: Content, known: Content, now: float, every: float = LIVE_SECONDS) -> bool:
    """True when a rollout's status should be written. Its live numbers are, while it moves, every so many seconds."""
    moving = content.get("phase") in ("Progressing", "Paused")
    live = _LIVE if moving else ("measuredAt",)
    if _without_numbers(_lacking(content, live), moving) != _without_numbers(_lacking(known, live), moving):
        return True
    changed = _lacking(content, ("measuredAt",)) != _lacking(known, ("measuredAt",))
    measured_at = seconds(str(known["measuredAt"])) if "measuredAt" in known else 0.0
    return changed and not 0 <= now - measured_at < every  # a clock that is behind must not hold it back


def _steady(content: Content) -> dict[str, Any]:
    """A program's status without what changes on every pass: counts, clocks, and the numbers in words about them."""
    ledger = content.get("release", {})
    moving = "release" in ledger
    steady = _lacking(ledger, (*_LEDGER_CLOCKS, "draining"))
    steady["drains"] = [each["revision"] for each in ledger.get("draining", ())]
    if moving:
        steady["release"] = _steady_release(ledger["release"])
    conditions = [_without_numbers(each, moving) for each in content.get("conditions", ())]
    return {**content, "release": steady, "conditions": conditions}


def _steady_release(release: Content) -> dict[str, Any]:
    steady = _lacking(release, _RELEASE_CLOCKS)
    if "lowered" in steady:
        steady["lowered"] = _lacking(steady["lowered"], ("clearSeconds", "seconds"))
    if "paused" in steady:
        steady["paused"] = _without_numbers(steady["paused"], True)
    if "others" in steady:
        steady["others"] = [_steady_release(each) for each in steady["others"]]
    return steady


def _without_numbers(content: Content, moving: bool) -> dict[str, Any]:
    """The same with a message whose numbers do not count, where they change all the time."""
    if not moving or "message" not in content:
        return dict(content)
    return {**content, "message": _NUMBERS.sub("#", str(content["message"]))}


def _lacking(content: Content, names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in names}
