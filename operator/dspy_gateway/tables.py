"""The draw tables of one program in this pod: when a new one opens, and when an old one is closed, settled, forgotten.

Pure in all but its own memory: every method takes the time (monotonic seconds). A request is counted under the table
whose route drew it, so a table may get answers long after a newer one draws.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from dspy_contract.routes import Routes

ROTATE_SECONDS = 10.0
ROTATE_TIMEOUT_SHARE = 50
"""While a release moves, a table draws for 10 s, or for a fiftieth of the time-out if that is longer."""

FASTEST_SECONDS = 1.0
"""Weights that change again sooner than this are not judged: what flaps is no experiment. Once they stand for that
long, another table opens, which is."""

CLOSING_SECONDS = 1.0
"""How long after Envoy's confirmation its workers may still draw by the table before."""

KEEP_SECONDS = 3_600.0
"""A settled table that nobody asked for is forgotten after this."""


@dataclass(slots=True)
class Entry:
    """One table. `confirmed`: Envoy has drawn by it; `closing_at` is when it confirmed a newer one."""

    number: int
    opened_at: float
    weights: Mapping[str, int]
    release: int | None
    epoch: int
    warm_seconds: float
    judged: bool
    changed_at: float
    """When its weights began to draw: with this table or with one before it."""
    confirmed: bool = False
    closing_at: float | None = None
    settled_at: float | None = None

    @property
    def settled(self) -> bool:
        """True when it is closed and every request that it drew has ended."""
        return self.settled_at is not None

    def closed(self, now: float) -> bool:
        """True when no worker can draw by it any more."""
        return self.closing_at is not None and now - self.closing_at >= CLOSING_SECONDS


@dataclass(slots=True)
class ProgramTables:
    """The tables of one program, by number."""

    entries: dict[int, Entry] = field(default_factory=dict)

    @property
    def newest(self) -> Entry | None:
        """The table that draws, or will once Envoy has confirmed it."""
        return self.entries[max(self.entries)] if self.entries else None

    def needs_another(self, routes: Routes, weights: Mapping[str, int], now: float) -> bool:
        """True when the newest table cannot go on: other weights, another release or epoch, or its time is over."""
        newest = self.newest
        if newest is None or newest.closing_at is not None or dict(newest.weights) != dict(weights):
            return True
        if routes.release is None:
            return False
        if (newest.release, newest.epoch) != (routes.release.id, routes.release.epoch):
            return True
        if not newest.confirmed:
            return False  # an Envoy that refuses routes is not offered one table after another
        if not newest.judged and now - newest.changed_at >= FASTEST_SECONDS:
            return True
        return now - newest.opened_at >= rotation_seconds(routes)

    def open(self, number: int, routes: Routes, weights: Mapping[str, int], grown_at: float, now: float) -> None:
        """Opens a table. `grown_at` is when the candidate's usable pods last became more."""
        newest = self.newest
        same = newest is not None and dict(newest.weights) == dict(weights)
        changed_at = newest.changed_at if newest is not None and same else now
        stands = newest is None or now - newest.changed_at >= FASTEST_SECONDS
        release = routes.release
        self.entries[number] = Entry(
            number,
            now,
            dict(weights),
            release.id if release else None,
            release.epoch if release else 0,
            now - grown_at,
            judged=stands or (newest is not None and same and newest.judged),
            changed_at=changed_at,
        )

    def confirm(self, number: int, now: float) -> None:
        """Envoy draws by this table: the ones before are closing."""
        for entry in self.entries.values():
            if entry.number < number and entry.closing_at is None:
                entry.closing_at = now
        if number in self.entries:
            self.entries[number].confirmed = True

    def close_all(self, now: float) -> None:
        """An Envoy has ended: nothing draws by any of these again."""
        for entry in self.entries.values():
            entry.closing_at = now - CLOSING_SECONDS

    def settle(self, open_requests: Mapping[int, int], looked_at: float) -> bool:
        """Marks the closed tables whose every request has ended, as a look that began then saw. True when any was."""
        ended = [
            entry
            for entry in self.entries.values()
            if not entry.settled and entry.closed(looked_at) and open_requests.get(entry.number, 0) <= 0
        ]
        for entry in ended:
            entry.settled_at = looked_at
        return bool(ended)

    def forget(self, kept: int, now: float) -> Collection[int]:
        """Drops settled tables that the operator keeps, or that are old. Returns their numbers."""
        gone = [
            entry.number
            for entry in self.entries.values()
            if entry.settled_at is not None and (entry.number <= kept or now - entry.settled_at > KEEP_SECONDS)
        ]
        for number in gone:
            del self.entries[number]
        return gone


def rotation_seconds(routes: Routes) -> float:
    """How long a table draws while a release moves."""
    return max(ROTATE_SECONDS, routes.timeout_seconds / ROTATE_TIMEOUT_SHARE)
