"""What users met: of the users of one release who were drawn, the first answer of each kind, in its order.

It grows only, so that the operator asks for what it has not heard yet. It is lost with the agent, and the next one
begins anew: a user who comes again is known by the same hash, and nobody is counted twice. Times are monotonic seconds.
"""

from __future__ import annotations

import bisect
import hashlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field

from dspy_contract.outcomes import Outcome
from dspy_contract.routes import TOTAL_WEIGHT, Routes
from dspy_contract.state import EDGES_SECONDS, WARMUP_SECONDS, Met, UserLog, is_sampled
from dspy_gateway.access_log import UserAnswer
from dspy_gateway.drawn import Drawn, read_token
from dspy_gateway.envoy.together import BY_COOKIE, BY_HEADER, NEW
from dspy_gateway.tables import Entry

MOST_USERS = 20_000
"""Of one release in one gateway pod. With more the sample is halved; the others are drawn as well, and not counted."""

MOST_TOLD = 2_000
"""What one answer to the operator holds; the rest comes with the next."""


def _new_id() -> str:
    return secrets.token_hex(4)


@dataclass(slots=True)
class _User:
    """What a user has met of one revision."""

    outcomes: set[str] = field(default_factory=set)
    flags: set[str] = field(default_factory=set)
    edge: int = -1


@dataclass(slots=True)
class _Sum:
    """What a user's answers measured, and what the log says of it."""

    answers: int = 0
    total: float = 0.0

    def take(self, measure: float) -> bool:
        """Adds an answer's. True when the log is to say so: at the first, second, fourth, eighth ... one."""
        self.answers += 1
        self.total += measure
        return self.answers.bit_count() == 1


@dataclass(slots=True)
class ReleaseUsers:
    """The users of one release of a program in this pod."""

    uid: str
    release: int
    began_at: float
    secret: bytes = b""
    """Of the namespace's gateways: without it nobody finds a user's hash by trying."""
    measure: str = ""
    """What is summed of each user's answers; empty for nothing."""
    several: bool = False
    """Whether the release began with several candidates."""
    id: str = field(default_factory=_new_id)
    incarnation: str = field(default_factory=_new_id)
    met: list[Met] = field(default_factory=list)
    halvings: int = 0
    _users: dict[str, dict[tuple[str, bool, bool], _User]] = field(default_factory=dict)
    """By hash; then by revision, whether it was drawn from several, and whether a token told."""
    _sums: dict[str, _Sum] = field(default_factory=dict)
    """By hash: over both revisions, for what a user meets counts for the first."""

    def take(
        self,
        answer: UserAnswer,
        user: str,
        table: Entry,
        flags: Collection[str],
        now: float,
        drawn: Drawn | None = None,
    ) -> bool:
        """Takes an answer in that went by the table, to a user who was `drawn` by another one, if that is given. True
        if it was the first of its kind for the user. `flags` are those that count. How fast cold pods were tells
        nothing."""
        later = drawn is not None and drawn.by_token
        drawn = drawn or drawn_by(table, answer.revision)
        cold = table.warm_seconds < WARMUP_SECONDS
        revision, weight, epoch = drawn.revision, drawn.weight, drawn.epoch
        name = self._hash(user)
        if not is_sampled(name, self.halvings) or (name not in self._users and not 0 < weight < TOTAL_WEIGHT):
            return False  # not of the sample, or it could not have been at the other one
        of_user = self._users.setdefault(name, {})
        place = (revision, weight < TOTAL_WEIGHT, later)
        new = place not in of_user
        known = of_user.setdefault(place, _User())
        said = (answer.flags & set(flags)) - known.flags
        edge = -1 if cold else bisect.bisect_right(EDGES_SECONDS, answer.seconds) - 1
        summed = self._summed(name, answer)
        if not new and answer.outcome in known.outcomes and not said and edge <= known.edge and summed is None:
            return False
        known.outcomes.add(answer.outcome)
        known.flags |= said
        known.edge = max(known.edge, edge)
        at = round(now - self.began_at, 3)
        met = (revision, weight, epoch, answer.outcome, tuple(sorted(said)), known.edge, later)
        sums = (summed.answers, summed.total) if summed else (0, 0.0)
        shares = {each: share for each, share in table.weights.items() if share} if self.several else {}
        self.met.append(Met(name, at, round(answer.seconds, 3), *met, *sums, shares))
        while len(self._users) > MOST_USERS:
            self._halve()
        return True

    def _summed(self, name: str, answer: UserAnswer) -> _Sum | None:
        """The sum of a user's good answers, where the log is to say it: one that failed at once would be cheap."""
        if self.measure not in answer.measures or answer.outcome != Outcome.OK:
            return None
        of_user = self._sums.setdefault(name, _Sum())
        return of_user if of_user.take(answer.measures[self.measure]) else None

    def _halve(self) -> None:
        """Lets half of the users go, by their hashes. The log begins anew with what is left."""
        self.halvings += 1
        self._users = {name: user for name, user in self._users.items() if is_sampled(name, self.halvings)}
        self._sums = {name: sums for name, sums in self._sums.items() if name in self._users}
        self.met = [met for met in self.met if is_sampled(met.user, self.halvings)]
        self.id = _new_id()

    def told(self, heard: tuple[str, int], now: float) -> UserLog:
        """The log from where the operator has heard it."""
        first = min(heard[1], len(self.met)) if heard[0] == self.id else 0
        some = tuple(self.met[first : first + MOST_TOLD])
        age = round(now - self.began_at, 3)
        return UserLog(self.id, self.release, age, first, len(self.met), some, self.halvings, self.incarnation)

    def _hash(self, user: str) -> str:
        """The same in every gateway pod, and another one in each release."""
        named = f"{self.uid}/{self.release}/{user}".encode()
        return hashlib.blake2b(named, digest_size=8, key=self.secret[: hashlib.blake2b.MAX_KEY_SIZE]).hexdigest()


def whose(answer: UserAnswer, routes: Routes, table: Entry) -> tuple[str, Drawn] | None:
    """Which user or conversation an answer belongs to, in words that never leave the pod, and how that was drawn: by
    the table, unless a token tells. None where nobody can tell."""
    how, _, who = answer.told.partition(" ")
    by_table = drawn_by(table, answer.revision)
    if routes.users:
        found = _cookie(answer.cookies, routes.users.cookie) if how == BY_COOKIE else who
        # The first request of a user is known by what becomes its cookie.
        return (f"{BY_HEADER if how == BY_HEADER else BY_COOKIE} {found}", by_table) if found else None
    if routes.conversations is None:
        return None
    if how == NEW:
        return (who, by_table) if who else None
    return read_token(who if how == BY_HEADER else _cookie(answer.cookies, routes.conversations.cookie))


def drawn_by(table: Entry, revision: str) -> Drawn:
    """How a table draws for a revision."""
    return Drawn(revision, table.weights.get(revision, 0), table.epoch, table.release)


def _cookie(header: str, name: str) -> str:
    for part in header.split(";"):
        key, _, value = part.strip().partition("=")
        if key == name:
            return value.strip('"')
    return ""
