"""What the users of a release met who were drawn, each once: the unit of a test where not requests are drawn.

`Sample` joins what gateway pods tell. It may be lost, and is then told anew: nothing is counted twice, since all that
is judged is made of it as it is now. A user who turns up at the other revision was moved: what it met before stays
with the revision that it was drawn for, and what it meets after says nothing of the draw.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from dspy_contract.routes import TOTAL_WEIGHT
from dspy_contract.state import Met, UserLog

MOST_USERS = 20_000
"""Of one release. Those who come later belong to no sample."""

LATE_SECONDS = 10.0
"""How long what a user met may be on its way from a gateway pod."""


@dataclass(frozen=True, slots=True)
class Group:
    """Users who were drawn with the candidate's share `weight` (a fraction), for it or for stable, and met the same.

    `epoch` is that of the draw table by which they were drawn first; `edge` the last of the grid that an answer was as
    old as, -1 for none.
    """

    of_candidate: bool
    weight: float
    epoch: int
    outcomes: frozenset[str]
    flags: frozenset[str]
    edge: int
    users: int


@dataclass(frozen=True, slots=True)
class UserTotals:
    """All users, by what they met. `compared`: those who have been there for long enough to be compared, by what they
    met in that time. `moved`: those who were seen at both revisions. `full`: users who came later are not counted."""

    groups: tuple[Group, ...] = ()
    compared: tuple[Group, ...] = ()
    moved: int = 0
    full: bool = False

    @property
    def number(self) -> int:
        """How many users."""
        return sum(group.users for group in self.groups)


NO_USERS = UserTotals()

Kind = tuple[str, int, int, frozenset[str], frozenset[str], int]
"""Of a user: its revision, that revision's weight and the epoch when it was drawn, and what it met."""


@dataclass(slots=True)
class _User:
    """One user. What it met is of the revision that it was seen at first, since then."""

    first: Met
    since: float
    met: list[tuple[float, Met]] = field(default_factory=list)
    moved: bool = False

    def kind(self, until: float = math.inf) -> Kind:
        """Which users it is like, by what it met until then."""
        met = [each for at, each in self.met if at <= until]
        outcomes = frozenset(each.outcome for each in met)
        flags = frozenset(flag for each in met for flag in each.flags)
        edge = max((each.edge for each in met), default=-1)
        return self.first.revision, self.first.weight, self.first.epoch, outcomes, flags, edge


@dataclass(slots=True)
class Sample:
    """The users of one release, joined over the gateway pods. Times are the caller's, in seconds.

    What it takes hangs on what is new, not on how many users there are: a guard looks many times a second.
    """

    release: int
    full: bool = False
    _users: dict[str, _User] = field(default_factory=dict)
    _heard: dict[str, tuple[str, int]] = field(default_factory=dict)
    _moved: int = 0
    _kinds: Counter[Kind] = field(default_factory=Counter)
    _compared: Counter[Kind] = field(default_factory=Counter)
    _young: deque[_User] = field(default_factory=deque)
    """Those that are not compared yet, in the order in which they came."""

    def heard(self, pod: str) -> tuple[str, int]:
        """How much of a pod's log, by its id, has been taken."""
        return self._heard.get(pod, ("", 0))

    def take(self, pod: str, log: UserLog, now: float) -> None:
        """Takes what a pod tells of this release."""
        known = self.heard(pod)
        has = known[1] if known[0] == log.id else 0
        if log.first > has:
            return  # of another question: what lies between comes with the next
        self.full = self.full or log.full
        for met in log.met[has - log.first :]:
            self._take(met, now - (log.age_seconds - met.at))
        self._heard[pod] = (log.id, max(has, log.first + len(log.met)))

    def totals(self, candidate: str, now: float, exposure_seconds: float = math.inf) -> UserTotals:
        """What is known now. `exposure_seconds`: how long a user is there before it is compared; one for a release."""
        while self._young and now - self._young[0].since >= exposure_seconds + LATE_SECONDS:
            user = self._young.popleft()
            self._compared[user.kind(user.since + exposure_seconds)] += 1
        return UserTotals(_groups(self._kinds, candidate), _groups(self._compared, candidate), self._moved, self.full)

    def _take(self, met: Met, at: float) -> None:
        user = self._users.get(met.user)
        drawn = 0 < met.weight < TOTAL_WEIGHT
        if user is None and drawn:
            user = self._add(met, at)
        if user is None or user.moved:
            return
        if met.revision != user.first.revision:
            # What began before the user was drawn is no sign of a move.
            user.moved = at - met.seconds > user.since
            self._moved += user.moved
        elif drawn:
            before = user.kind() if user.met else None
            user.since = min(user.since, at)
            user.met.append((at, met))
            self._kinds[user.kind()] += 1
            if before is not None:
                self._kinds[before] -= 1

    def _add(self, met: Met, at: float) -> _User | None:
        if len(self._users) >= MOST_USERS:
            self.full = True
            return None
        user = self._users[met.user] = _User(met, at)
        self._young.append(user)
        return user


def _groups(kinds: Mapping[Kind, int], candidate: str) -> tuple[Group, ...]:
    groups = []
    for (revision, weight, epoch, outcomes, flags, edge), users in kinds.items():
        of_candidate = revision == candidate
        share = weight if of_candidate else TOTAL_WEIGHT - weight
        if users:
            groups.append(Group(of_candidate, share / TOTAL_WEIGHT, epoch, outcomes, flags, edge, users))
    return tuple(groups)
