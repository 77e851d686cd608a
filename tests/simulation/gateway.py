"""A gateway pod in the simulation: the agent's own book, tables and switches over an Envoy that only counts."""

from __future__ import annotations

import bisect
import random
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dspy_contract.outcomes import NANO_USD
from dspy_contract.routes import COST, TOKENS, TOTAL_WEIGHT, Routes, effective_weights, ranges
from dspy_contract.stat_names import ENDED, OLDER, PRICED, STARTED, cached, mirrored, of_users
from dspy_contract.state import (
    EDGES_SECONDS,
    FAST_EDGES_SECONDS,
    FEATURES,
    GatewayState,
    Poll,
    ProgramState,
)
from dspy_gateway.access_log import UserAnswer
from dspy_gateway.book import Book
from dspy_gateway.counts import Key
from dspy_gateway.drawn import Drawn
from dspy_gateway.switches import Switches
from dspy_gateway.users import ReleaseUsers
from tests.simulation.behaviour import Answer

ANSWERED_SECONDS = 0.25
"""How long an agent waits before it answers a poll while nothing is urgent."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request in flight: which table drew it, and when and how it will end."""

    table: int
    revision: str
    started_at: float
    ends_at: float
    outcome: str
    measures: Mapping[str, float] = field(default_factory=dict)
    user: str = ""
    """Whose it is, where users or conversations are drawn."""
    drawn: Drawn | None = None
    """How its conversation was drawn."""


@dataclass
class CountingEnvoy:
    """The counters of an Envoy, by the names that the agent reads, and what it has in flight."""

    counters: Counter[Key] = field(default_factory=Counter)
    open: list[Request] = field(default_factory=list)
    aged: dict[int, int] = field(default_factory=dict)
    """By the identity of a request in flight, the next slow edge that it will reach."""
    told: list[Request] = field(default_factory=list)
    """The requests of users that have ended: what its access log tells."""

    def start(self, request: Request) -> None:
        """Counts a request's start."""
        self.counters[request.table, request.revision, STARTED] += 1
        self.open.append(request)
        self.aged[id(request)] = len(FAST_EDGES_SECONDS)

    def pass_time(self, now: float) -> None:
        """Counts what has ended, and what has become older, by now."""
        for request in self.open:
            reached = bisect.bisect_right(EDGES_SECONDS, min(now, request.ends_at) - request.started_at)
            for edge in range(self.aged[id(request)], reached):
                self.counters[request.table, request.revision, f"{OLDER}.{edge}"] += 1
                self.aged[id(request)] = edge + 1
        for request in [request for request in self.open if request.ends_at <= now]:
            self._end(request)

    def _end(self, request: Request) -> None:
        self.open.remove(request)
        if request.user:
            self.told.append(request)
        del self.aged[id(request)]
        outcome, _, flag = request.outcome.partition("+")
        self.counters[request.table, request.revision, outcome] += 1
        measures = request.measures
        if TOKENS in measures:
            self.counters[request.table, request.revision, TOKENS] += round(measures[TOKENS])
        if COST in measures:
            self.counters[request.table, request.revision, COST] += round(measures[COST] * NANO_USD)
            self.counters[request.table, request.revision, PRICED] += 1
        if flag:
            self.counters[request.table, request.revision, f"said.{flag}"] += 1
        reached = bisect.bisect_right(EDGES_SECONDS, request.ends_at - request.started_at)
        if reached <= len(FAST_EDGES_SECONDS):
            for edge in range(reached):
                self.counters[request.table, request.revision, f"{ENDED}.{edge}"] += 1


@dataclass
class SimulatedGateway:
    """One gateway pod of the one program. Time is passed in; `ready` tells the ready pods of each revision."""

    pod: str
    ready: Callable[[], Mapping[str, int]]
    answer_of: Callable[[str], Answer]
    book: Book = field(default_factory=Book)
    switches: Switches = field(default_factory=Switches)
    envoy: CountingEnvoy = field(default_factory=CountingEnvoy)
    obeyed: Routes | None = None
    effective: Mapping[str, int] = field(default_factory=dict)
    measures_of: Callable[[str], Mapping[str, float]] = lambda _: {}
    users: ReleaseUsers | None = None
    conversations: dict[str, Drawn] = field(default_factory=dict)
    """What clients keep: how each conversation was drawn."""
    reachable: bool = True
    lag_seconds: float = 0.0
    """How long new routes are on their way."""
    _arriving: tuple[float, Routes] | None = None

    def tick(self, now: float, routes: Routes | None) -> None:
        """Obeys the newest routes that have arrived, lets Envoy count, and opens another table where one is due."""
        self.envoy.pass_time(now)
        self._receive(now, routes)
        if self.obeyed is None:
            return
        ready = self.ready()
        self.effective = effective_weights(self.obeyed, set(ready), self.switches.is_on(self.obeyed, now))
        pods = sum(ready.get(candidate, 0) for candidate in self.obeyed.candidates)
        self.book.draw(self.obeyed, self.effective, pods, now)
        newest = self._newest()
        self.book.page(self.obeyed.uid).tables.confirm(newest, now)
        self._look(now)

    def request(self, now: float, chance: random.Random, user: str = "") -> str | None:
        """Draws one request, or finds where its user was drawn, and copies it; the revision that got it."""
        if self.obeyed is None or not any(self.effective.values()):
            return None
        names = [name for each in self._revisions for name in (each, cached(each))]
        weights = {name: self.effective[name] for name in names if name in self.effective}
        by_user = self.obeyed.users is not None and bool(user)
        name = self._of_user(user) if by_user else chance.choices(*zip(*weights.items(), strict=True))[0]
        revision = name.partition("/")[0]
        if name != revision:
            self._start(now, name, name)
            return revision
        token = None
        if self.obeyed.users is None and self.obeyed.conversations is not None:
            revision, token = self._of_conversation(user, revision)
        kept = by_user or token is not None
        self._start(now, revision, of_users(revision) if kept else revision, user if kept else "", token)
        for each in self._revisions:
            share = self.effective.get(mirrored(each), 0)
            if share and chance.random() * TOTAL_WEIGHT < share:
                self._start(now, each, mirrored(each))
        return revision

    def _of_conversation(self, user: str, chosen: str) -> tuple[str, Drawn]:
        """As its routes do: a token of a revision with weight leads there, one of another that is listed is kept."""
        assert self.obeyed is not None
        token = self.conversations.get(user)
        if token is None or token.revision not in self._revisions:
            release = self.obeyed.release
            about = (release.epoch, release.id) if release else (0, 0)
            token = self.conversations[user] = Drawn(chosen, self.effective[chosen], *about)
        return token.revision if self.effective.get(token.revision) else chosen, token

    @property
    def _revisions(self) -> list[str]:
        return [backend.revision for backend in self.obeyed.backends] if self.obeyed else []

    def _start(
        self,
        now: float,
        revision: str,
        name: str,
        user: str = "",
        drawn: Drawn | None = None,
    ) -> None:
        seconds, outcome = self.answer_of(revision)
        measures = self.measures_of(revision.partition("/")[0])
        self.envoy.start(Request(self._newest(), name, now, now + seconds, outcome, measures, user, drawn))

    def _of_user(self, user: str) -> str:
        """As Envoy does: a hash of the user falls into one of the ranges."""
        assert self.obeyed is not None
        assert self.obeyed.users is not None
        at = zlib.crc32(user.encode()) % TOTAL_WEIGHT
        for revision, width in ranges(self.effective, self.obeyed.candidates, self.obeyed.users):
            at -= width
            if at < 0:
                return revision
        raise AssertionError("ranges sum to all of the traffic")

    def answer(self, poll: Poll, now: float) -> GatewayState:
        """The whole state, for whoever asks; renews the switch of what is guarded."""
        for uid, interest in poll.programs.items():
            if interest.guarding is not None:
                self.switches.renew(uid, interest.guarding, now)
            self.book.forget_tables(uid, interest.kept, now)
        heard = {uid: interest.heard_of_users for uid, interest in poll.programs.items()}
        programs = {self.obeyed.uid: self._state(self.obeyed, heard, now)} if self.obeyed else {}
        return GatewayState(self.pod, self.book.incarnation, "", programs, FEATURES)

    def restart_envoy(self, now: float) -> None:
        """Envoy ends: what it had in flight is lost, and its counters begin anew."""
        self.envoy = CountingEnvoy()
        self.book.close_all(now)

    def restart_agent(self, now: float) -> None:
        """The agent ends and cannot read its file: a new incarnation, which knows nothing."""
        self.book, self.switches, self.users = Book(), Switches(began_at=now), None
        self.obeyed, self.effective = None, {}

    def _newest(self) -> int:
        assert self.obeyed is not None
        newest = self.book.page(self.obeyed.uid).tables.newest
        assert newest is not None
        return newest.number

    def _receive(self, now: float, routes: Routes | None) -> None:
        on_its_way = self._arriving[1].serial if self._arriving else -1
        if routes is not None and routes.serial > max(self.obeyed.serial if self.obeyed else -1, on_its_way):
            self._arriving = (now + self.lag_seconds, routes)
        if self._arriving and self._arriving[0] <= now:
            self.obeyed, self._arriving = self._arriving[1], None

    def _look(self, now: float) -> None:
        assert self.obeyed is not None
        self.book.page(self.obeyed.uid).sums.take(Counter(self.envoy.counters))
        self.book.settle(self.obeyed.uid, now)
        told, self.envoy.told = self.envoy.told, []
        for request in told:
            self._take_user(self.obeyed, request, now)

    def _take_user(self, obeyed: Routes, request: Request, now: float) -> None:
        entry = self.book.page(obeyed.uid).tables.entries.get(request.table)
        if entry is None or entry.release is None or not entry.judged:
            return
        if request.drawn and request.drawn.release != entry.release:
            return
        if self.users is None or self.users.release < entry.release:
            measure, several = obeyed.users.measure if obeyed.users else "", len(obeyed.candidates) > 1
            self.users = ReleaseUsers(obeyed.uid, entry.release, now, measure=measure, several=several)
        revision = request.revision.partition("/")[0]
        outcome, _, flag = request.outcome.partition("+")
        seconds = request.ends_at - request.started_at
        flags = frozenset({flag} if flag else ())
        answer = UserAnswer(
            obeyed.uid, "", request.table, revision, "", "", outcome, flags, seconds, {TOKENS: 0.0, **request.measures}
        )
        if self.users.release == entry.release:
            self.users.take(answer, request.user, entry, obeyed.flags, now, request.drawn)

    def _state(self, obeyed: Routes, heard: Mapping[str, tuple[str, int]], now: float) -> ProgramState:
        return ProgramState(
            serial=obeyed.serial,
            content=obeyed.content,
            listening=True,
            effective=dict(self.effective),
            totals=self.book.page(obeyed.uid).sums.totals(),
            tables=self.book.tables(obeyed.uid, now),
            users=self.users.told(heard.get(obeyed.uid, ("", 0)), now) if self.users else None,
        )
