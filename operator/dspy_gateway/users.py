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

from dspy_contract.routes import TOTAL_WEIGHT, Users
from dspy_contract.state import EDGES_SECONDS, WARMUP_SECONDS, Met, UserLog, is_sampled
from dspy_gateway.access_log import UserAnswer
from dspy_gateway.envoy.route_tables import BY_COOKIE, BY_HEADER
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
class ReleaseUsers:
    """The users of one release of a program in this pod."""

    uid: str
    release: int
    began_at: float
    secret: bytes = b""
    """Of the namespace's gateways: without it nobody finds a user's hash by trying."""
    id: str = field(default_factory=_new_id)
    met: list[Met] = field(default_factory=list)
    halvings: int = 0
    _users: dict[str, dict[tuple[str, bool], _User]] = field(default_factory=dict)
    """By hash; then by revision, and whether it was drawn from several."""

    def take(self, answer: UserAnswer, user: str, table: Entry, flags: Collection[str], now: float) -> bool:
        """Takes an answer in that the table drew. True if it was the first of its kind for the user. `flags` are those
        that count. How fast cold pods were tells nothing."""
        weight, epoch = table.weights.get(answer.revision, 0), table.epoch
        cold = table.warm_seconds < WARMUP_SECONDS
        name = self._hash(user)
        if not is_sampled(name, self.halvings) or (name not in self._users and not 0 < weight < TOTAL_WEIGHT):
            return False  # not of the sample, or it could not have been at the other one
        of_user = self._users.setdefault(name, {})
        place = (answer.revision, weight < TOTAL_WEIGHT)
        new = place not in of_user
        known = of_user.setdefault(place, _User())
        said = (answer.flags & set(flags)) - known.flags
        edge = -1 if cold else bisect.bisect_right(EDGES_SECONDS, answer.seconds) - 1
        if not new and answer.outcome in known.outcomes and not said and edge <= known.edge:
            return False
        known.outcomes.add(answer.outcome)
        known.flags |= said
        known.edge = max(known.edge, edge)
        at = round(now - self.began_at, 3)
        met = (answer.revision, weight, epoch, answer.outcome, tuple(sorted(said)), known.edge)
        self.met.append(Met(name, at, round(answer.seconds, 3), *met))
        while len(self._users) > MOST_USERS:
            self._halve()
        return True

    def _halve(self) -> None:
        """Lets half of the users go, by their hashes. The log begins anew with what is left."""
        self.halvings += 1
        self._users = {name: user for name, user in self._users.items() if is_sampled(name, self.halvings)}
        self.met = [met for met in self.met if is_sampled(met.user, self.halvings)]
        self.id = _new_id()

    def told(self, heard: tuple[str, int], now: float) -> UserLog:
        """The log from where the operator has heard it."""
        first = min(heard[1], len(self.met)) if heard[0] == self.id else 0
        some = tuple(self.met[first : first + MOST_TOLD])
        age = round(now - self.began_at, 3)
        return UserLog(self.id, self.release, age, first, len(self.met), some, self.halvings)

    def _hash(self, user: str) -> str:
        """The same in every gateway pod, and another one in each release."""
        named = f"{self.uid}/{self.release}/{user}".encode()
        return hashlib.blake2b(named, digest_size=8, key=self.secret[: hashlib.blake2b.MAX_KEY_SIZE]).hexdigest()


def user_of(answer: UserAnswer, users: Users) -> str:
    """Who the user of an answer is, in words that never leave the pod; empty where nobody can tell."""
    how, _, who = answer.told.partition(" ")
    if how == BY_HEADER:
        return f"{how} {who}" if who else ""
    found = _cookie(answer.cookies, users.cookie) if how == BY_COOKIE else who
    return f"{BY_COOKIE} {found}" if found else ""


def _cookie(header: str, name: str) -> str:
    for part in header.split(";"):
        key, _, value = part.strip().partition("=")
        if key == name:
            return value.strip('"')
    return ""
