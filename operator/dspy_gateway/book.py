"""What this pod knows of each program's requests: its draw tables, its sums, and when they last changed.

One book for the pod. It survives the agent in a file; without a readable one a new incarnation begins, so that counts
are never inherited. Times are monotonic seconds.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from dspy_contract.routes import Routes
from dspy_contract.stat_names import route_name
from dspy_contract.state import Counts, DrawTable
from dspy_gateway.counts import Sums
from dspy_gateway.tables import Entry, ProgramTables

RESERVED_NUMBERS = 1_000
"""Table numbers are written down in blocks of this many, before the first of them is used."""


@dataclass(slots=True)
class Page:
    """One program's part of the book. `grown_at` is when the candidate's usable pods last became more."""

    tables: ProgramTables = field(default_factory=ProgramTables)
    sums: Sums = field(default_factory=Sums)
    candidate_pods: int = 0
    grown_at: float = 0.0


@dataclass(slots=True)
class Book:
    """All pages, by program uid."""

    incarnation: str = field(default_factory=lambda: secrets.token_hex(4))
    next_number: int = 1
    reserved: int = 0
    """Every number up to this one is written down as used."""
    pages: dict[str, Page] = field(default_factory=dict)

    def page(self, uid: str) -> Page:
        """A program's page."""
        return self.pages.setdefault(uid, Page())

    def draw(self, routes: Routes, weights: Mapping[str, int], candidate_pods: int, now: float) -> str:
        """The name of the table by which a program draws now; opens another when the newest cannot go on.

        The caller writes the book down before it publishes the name whenever `reserved` has grown.
        """
        page = self.page(routes.uid)
        grown = candidate_pods > page.candidate_pods
        page.candidate_pods = candidate_pods
        if grown:
            page.grown_at = now
        if grown or page.tables.needs_another(routes, weights, now):
            page.tables.open(self._take_number(), routes, weights, page.grown_at, now)
        newest = page.tables.newest
        assert newest is not None
        return route_name(routes.uid, self.incarnation, newest.number)

    def close_all(self, now: float) -> None:
        """An Envoy has ended: every table is closed, and what was open is lost."""
        for page in self.pages.values():
            page.tables.close_all(now)
            page.sums.lose_open()

    def settle(self, uid: str, looked_at: float) -> bool:
        """Marks what has settled, as a look that began then saw. True when any table has."""
        page = self.page(uid)
        return page.tables.settle(page.sums.open_by_table(), looked_at)

    def forget_tables(self, uid: str, kept: int, now: float) -> None:
        """Forgets settled tables that the operator keeps, or that are old."""
        page = self.page(uid)
        gone = page.tables.forget(kept, now)
        if gone:
            page.sums.retire(gone)

    def forget_programs(self, living: Collection[str]) -> None:
        """Forgets the pages of programs that are gone."""
        for uid in self.pages.keys() - set(living):
            del self.pages[uid]

    def tables(self, uid: str, now: float) -> tuple[DrawTable, ...]:
        """A program's tables as the operator is told of them, in their order."""
        page = self.page(uid)
        counted = page.sums.by_table()
        return tuple(
            _draw_table(entry, counted.get(entry.number, {}), now) for _, entry in sorted(page.tables.entries.items())
        )

    def _take_number(self) -> int:
        number = self.next_number
        self.next_number += 1
        if number > self.reserved:
            self.reserved = number + RESERVED_NUMBERS
        return number


def _draw_table(entry: Entry, counts: Mapping[str, Counts], now: float) -> DrawTable:
    return DrawTable(
        number=entry.number,
        age_seconds=round(now - entry.opened_at, 3),
        weights=entry.weights,
        counts=counts,
        release=entry.release,
        epoch=entry.epoch,
        warm_seconds=round(min(entry.warm_seconds, 1e9), 3),
        judged=entry.judged,
        settled=entry.settled,
    )
