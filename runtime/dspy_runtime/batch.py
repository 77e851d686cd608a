"""Several requests in one: each is carried by itself, and their answers stand in the order in which they were asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic_core import from_json, to_json

from dspy_contract.outcomes import FAILURES, Outcome
from dspy_runtime import endings
from dspy_runtime.endings import MOST_VALUES, UnfitInputError
from dspy_runtime.exchange import Exchange, abandon
from dspy_runtime.pipeline import Pipeline
from dspy_runtime.settings import Settings

MOST_ROWS = 1_000
_WORST = (*sorted(FAILURES), Outcome.OVERLOADED, Outcome.CLIENT_ERROR, Outcome.CANCELLED)
"""Outcomes of rows that a batch is told by, the first that there is."""


class Batches:
    """Carries batches. Together they take at most half of the places, so that nobody else waits for them."""

    def __init__(self, pipeline: Pipeline, settings: Settings) -> None:
        self._pipeline = pipeline
        self._seconds = settings.timeout_seconds
        self._places = asyncio.Semaphore(max(1, settings.concurrency // 2))

    async def carry(self, batch: Exchange, rows: Sequence[Any]) -> list[Exchange]:
        """Each row as an exchange that has ended. All of them have the batch's deadline."""
        deadline = time.monotonic() + min(self._seconds, batch.most_seconds)
        carried = [batch.part(to_json(row)) for row in rows]
        tasks = [asyncio.ensure_future(self._carry(row, deadline)) for row in carried]
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError:
            for row, task in zip(carried, tasks, strict=True):
                abandon(row, task)
            raise
        return carried

    async def _carry(self, row: Exchange, deadline: float) -> None:
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await self._places.acquire()
        except (TimeoutError, asyncio.CancelledError) as error:
            row.end(endings.OVERLOADED if isinstance(error, TimeoutError) else endings.CANCELLED)
            self._pipeline.finish(row)
            return
        try:
            row.most_seconds = deadline - time.monotonic()
            await self._pipeline.carry(row)
        finally:
            self._places.release()


def rows_of(body: bytes) -> list[Any]:
    """The rows of `{"inputs": [...]}`. Raises UnfitInputError."""
    content = parsed(body)
    rows = content.get("inputs") if isinstance(content, dict) else None
    if not isinstance(rows, list) or len(content) > 1:
        raise UnfitInputError([("inputs", "A batch is an object with a list of inputs, and nothing else")])
    return checked(rows)


def parsed(body: bytes) -> Any:
    """A body's JSON. Raises UnfitInputError for what is none, or has too much in it."""
    if body.count(b",") > MOST_VALUES:
        raise UnfitInputError([("body", f"At most {MOST_VALUES:,} values")])
    try:
        return from_json(body)
    except ValueError as error:
        raise UnfitInputError([("body", f"Invalid JSON: {error}")]) from error


def checked(rows: list[Any]) -> list[Any]:
    """The rows. Raises UnfitInputError for none, and for too many."""
    if not 0 < len(rows) <= MOST_ROWS:
        raise UnfitInputError([("inputs", f"From 1 to {MOST_ROWS:,} inputs, not {len(rows):,}")])
    return rows


def answered(batch: Exchange, rows: list[Exchange]) -> None:
    """Ends a batch: an answer or an error for each row."""
    summed_up(batch, rows)
    batch.answer = b'{"outputs":[' + b",".join(row.answer for row in rows) + b"]}"


def summed_up(batch: Exchange, rows: Sequence[Exchange]) -> None:
    """Ends a batch: it is as bad as its worst row, and took what all rows took."""
    told = {row.ending.outcome: row.ending for row in reversed(rows) if row.ending is not None}
    worst = next((told[outcome] for outcome in _WORST if outcome in told), endings.OK)
    batch.ending = replace(worst, status=200, retry_after_seconds=None)
    batch.tokens = sum(row.tokens for row in rows)
    costs = [row.cost for row in rows if row.cost is not None]
    batch.cost = sum(costs) if len(costs) == len(rows) else None
    batch.flags = tuple(sorted({flag for row in rows for flag in row.flags}))
    batch.models = tuple(sorted({model for row in rows for model in row.models}))
