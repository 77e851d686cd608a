"""What the users of a release met who were drawn, each once: the unit of a test where not requests are drawn.

`Sample` joins what gateway pods tell. It may be lost, and is then told anew: nothing is counted twice, since all that
is judged is made of it as it is now. Whatever a user meets counts for the revision that it was drawn for first, also
after it was moved to the other one: so both sides are watched alike, and nobody leaves by what it met.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from dspy_contract.routes import TOTAL_WEIGHT
from dspy_contract.state import Met, UserLog, is_sampled
from dspy_operator.domain.analysis.means import Alike, rounded

MOST_USERS = 20_000
"""Of one release, over all gateway pods. With more the sample is halved."""

CONVERSATION_SECONDS = 60.0
"""How long a conversation is there before it is compared, by what it met in that time: so both sides are of equal
age."""

LATE_SECONDS = 10.0
"""How long what a user met may be on its way from a gateway pod."""


@dataclass(frozen=True, slots=True)
class Group:
    """Users who were drawn with the candidate's share `weight` (a fraction), for it or for stable, and met the same.

    `epoch` is that of the draw table by which they were drawn first; `edge` the last of the grid that an answer was as
    old as, -1 for none. `since`: when they came, in steps of five minutes, so that a candidate which turns bad is found
    by those who come then: of the others many have met something bad before.
    """

    of_candidate: bool
    weight: float
    epoch: int
    outcomes: frozenset[str]
    flags: frozenset[str]
    edge: int
    users: int
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class UserTotals:
    """All users, by what they met. `compared`: those who have been there for long enough to be compared, by what they
    met in that time; `valued`: those of them whose answers told what is compared. `moved`: those who were seen at both
    revisions. `halvings`: how often the sample was halved. Not `complete`: some gateway pod has more to tell."""

    groups: tuple[Group, ...] = ()
    compared: tuple[Group, ...] = ()
    valued: tuple[Alike, ...] = ()
    moved: int = 0
    halvings: int = 0
    complete: bool = True

    @property
    def number(self) -> int:
        """How many users."""
        return sum(group.users for group in self.groups)

    @property
    def grown(self) -> int:
        """How many of them can be compared."""
        return sum(group.users for group in self.compared)


NO_USERS = UserTotals()

Weights = tuple[tuple[str, int], ...]
"""Those of all revisions, in a release of several candidates."""

Place = tuple[str, int, Weights]
"""Where a user was drawn: its revision, that one's weight, and all of them."""

Kind = tuple[Place, int, frozenset[str], frozenset[str], int, float]
"""Of a user: where and in which epoch it was drawn, what it met, and when it came."""

COHORT_SECONDS = 300.0


@dataclass(slots=True)
class _User:
    """One user, from when its first request was drawn. `until`: what began before is compared; None while it is too
    young."""

    first: Met
    since: float
    met: list[tuple[float, Met]] = field(default_factory=list)
    sums: dict[str, list[tuple[float, Met]]] = field(default_factory=dict)
    """By the incarnation of the log that tells them: each of them counts its own answers."""
    moved: bool = False
    until: float | None = None

    @property
    def place(self) -> Place:
        """Where it was drawn."""
        return self.first.revision, self.first.weight, tuple(sorted(self.first.weights.items()))

    def knows(self, met: Met) -> bool:
        """Whether it met the like before: a log that begins anew tells it again."""
        return any(
            (each.revision, each.outcome) == (met.revision, met.outcome)
            and set(met.flags) <= set(each.flags)
            and met.edge <= each.edge
            for _, each in self.met
        )

    def value(self) -> float | None:
        """The mean of what its answers measured until it was compared; None for nothing."""
        last = [
            next((met for began, met in reversed(sums) if self.until is None or began <= self.until), None)
            for sums in self.sums.values()
        ]
        answers = sum(met.measured for met in last if met)
        return rounded(sum(met.measure for met in last if met) / answers) if answers else None

    def kind(self, until: float = math.inf) -> Kind:
        """Which users it is like, by what it met until then."""
        met = [each for began, each in self.met if began <= until]
        outcomes = frozenset(each.outcome for each in met)
        flags = frozenset(flag for each in met for flag in each.flags)
        edge = max((each.edge for each in met), default=-1)
        came = self.since // COHORT_SECONDS * COHORT_SECONDS
        return self.place, self.first.epoch, outcomes, flags, edge, came


@dataclass(slots=True)
class Sample:
    """The users of one release, joined over the gateway pods. Times are the caller's, in seconds.

    What it takes hangs on what is new, not on how many users there are, but for their values, which only a comparison
    asks for: a guard looks many times a second.
    """

    release: int
    halvings: int = 0
    _users: dict[str, _User] = field(default_factory=dict)
    _heard: dict[str, tuple[str, int]] = field(default_factory=dict)
    _behind: set[str] = field(default_factory=set)
    """The pods that have more to tell."""
    _moved: int = 0
    _kinds: Counter[Kind] = field(default_factory=Counter)
    _compared: Counter[Kind] = field(default_factory=Counter)
    _valued: Counter[tuple[Place, float]] = field(default_factory=Counter)
    """By the user's value as well."""
    _young: deque[_User] = field(default_factory=deque)
    """Those that are not compared yet, in the order in which they came."""
    _unheard: dict[str, list[tuple[float, Met]]] = field(default_factory=dict)
    """What conversations met whose beginning has not been heard of yet: another pod may tell of it."""

    def heard(self, pod: str) -> tuple[str, int]:
        """How much of a pod's log, by its id, has been taken."""
        return self._heard.get(pod, ("", 0))

    def take(self, pod: str, log: UserLog, now: float) -> None:
        """Takes what a pod tells of this release."""
        known = self.heard(pod)
        has = known[1] if known[0] == log.id else 0
        if log.first > has:
            return  # of another question: what lies between comes with the next
        self._halve(log.halvings)
        for met in log.met[has - log.first :]:
            self._take(met, now - (log.age_seconds - met.at), log.incarnation)
        self._heard[pod] = (log.id, max(has, log.first + len(log.met)))
        (self._behind.add if self._heard[pod][1] < log.length else self._behind.discard)(pod)

    def is_complete(self, pods: Collection[str]) -> bool:
        """True when these pods have told all."""
        return not self._behind & set(pods)

    def totals(
        self,
        candidate: str,
        now: float,
        exposure_seconds: float = math.inf,
        late_seconds: float = 0.0,
        stable: str | None = None,
    ) -> UserTotals:
        """What is known now of the candidate's users and of stable's (of all others, unless that is named).
        `exposure_seconds`: how long a user is there before it is compared, one for a release; `late_seconds`: how long
        an answer may take."""
        while self._young and now - self._young[0].since >= exposure_seconds + late_seconds + LATE_SECONDS:
            user = self._young.popleft()
            user.until = user.since + exposure_seconds
            if is_sampled(user.first.user, self.halvings):
                self._count_compared(user, 1)
        groups, compared = (_groups(kinds, candidate, stable) for kinds in (self._kinds, self._compared))
        asked = not math.isinf(exposure_seconds)  # a guard compares nobody, and looks many times a second
        valued = _valued(self._valued, candidate, stable) if asked else ()
        return UserTotals(groups, compared, valued, self._moved, self.halvings)

    def _halve(self, halvings: int) -> None:
        """Lets the users go who are not of the smaller sample."""
        if halvings <= self.halvings:
            return
        self.halvings = halvings
        for name, user in list(self._users.items()):
            if not is_sampled(name, halvings):
                self._count(user, -1)
                self._moved -= user.moved
                del self._users[name]

    def _take(self, met: Met, at: float, incarnation: str) -> None:
        if not is_sampled(met.user, self.halvings):
            return
        user = self._users.get(met.user)
        drawn = 0 < met.weight < TOTAL_WEIGHT
        if user is None and met.later:
            self._keep_unheard(met, at)
            return
        if user is None and drawn:
            user = self._add(met, at)
            for told in self._unheard.pop(met.user, ()):
                self._note(user, *told)
        self._note(user, at, met)
        if user and met.measured:
            self._sum(user, at - met.seconds, met, incarnation)

    def _keep_unheard(self, met: Met, at: float) -> None:
        self._unheard.setdefault(met.user, []).append((at, met))
        while len(self._unheard) > MOST_USERS:
            del self._unheard[next(iter(self._unheard))]

    def _note(self, user: _User | None, at: float, met: Met) -> None:
        drawn = 0 < met.weight < TOTAL_WEIGHT
        if user is None or user.knows(met) or (not drawn and at - met.seconds < user.since):
            return  # it could not have been at the other one, or not yet
        if met.revision != user.first.revision and not user.moved:
            user.moved = True
            self._moved += 1
        if user.met:
            self._count(user, -1)
        user.since = min(user.since, at - met.seconds) if user.until is None else user.since
        user.met.append((at - met.seconds, met))
        self._count(user, 1)
        while len(self._users) > MOST_USERS:
            self._halve(self.halvings + 1)

    def _count(self, user: _User, number: int) -> None:
        self._kinds[user.kind()] += number
        if user.until is not None:
            self._count_compared(user, number)

    def _count_compared(self, user: _User, number: int) -> None:
        assert user.until is not None
        self._compared[user.kind(user.until)] += number
        value = user.value()
        if value is not None:
            self._valued[user.place, value] += number

    def _sum(self, user: _User, began: float, met: Met, incarnation: str) -> None:
        """Takes a sum in that grew. What a log that begins anew tells again is known."""
        sums = user.sums.setdefault(incarnation, [])
        if sums and sums[-1][1].measured >= met.measured:
            return
        self._count(user, -1)
        sums.append((began, met))
        self._count(user, 1)

    def _add(self, met: Met, at: float) -> _User:
        user = self._users[met.user] = _User(met, at - met.seconds)
        self._young.append(user)
        return user


def _groups(kinds: Mapping[Kind, int], candidate: str, stable: str | None) -> tuple[Group, ...]:
    found = []
    for (place, epoch, outcomes, flags, edge, since), users in kinds.items():
        share = _share(place, candidate, stable)
        if users and share is not None:
            found.append(Group(place[0] == candidate, share, epoch, outcomes, flags, edge, users, since))
    return tuple(found)


def _valued(values: Mapping[tuple[Place, float], int], candidate: str, stable: str | None) -> tuple[Alike, ...]:
    found = []
    for (place, value), users in sorted(values.items()):
        share = _share(place, candidate, stable)
        if users and share is not None:
            found.append(Alike(place[0] == candidate, share, value, users))
    return tuple(found)


def _share(place: Place, candidate: str, stable: str | None) -> float | None:
    """The candidate's share of the draw between it and stable, as a fraction; None for users who were drawn for others,
    or could not have been drawn for both."""
    revision, weight, weights = place
    if stable is not None and revision not in (stable, candidate):
        return None
    if not weights:
        return (weight if revision == candidate else TOTAL_WEIGHT - weight) / TOTAL_WEIGHT
    shares = dict(weights)
    both = shares.get(candidate, 0), shares.get(str(stable), 0)
    return both[0] / sum(both) if all(both) else None
