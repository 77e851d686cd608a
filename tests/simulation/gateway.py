"""A gateway pod in the simulation: the agent's own book, tables and switches over an Envoy that only counts."""

from __future__ import annotations

import bisect
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dspy_contract.routes import Routes, effective_weights
from dspy_contract.stat_names import ENDED, OLDER, STARTED
from dspy_contract.state import EDGES_SECONDS, FAST_EDGES_SECONDS, FEATURES, GatewayState, Poll, ProgramState
from dspy_gateway.book import Book
from dspy_gateway.counts import Key
from dspy_gateway.switches import Switches
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


@dataclass
class CountingEnvoy:
    """The counters of an Envoy, by the names that the agent reads, and what it has in flight."""

    counters: Counter[Key] = field(default_factory=Counter)
    open: list[Request] = field(default_factory=list)
    aged: dict[int, int] = field(default_factory=dict)
    """By the identity of a request in flight, the next slow edge that it will reach."""

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
        del self.aged[id(request)]
        outcome, _, flag = request.outcome.partition("+")
        self.counters[request.table, request.revision, outcome] += 1
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

    def request(self, now: float, chance: random.Random) -> str | None:
        """Draws one request; the revision that got it."""
        if self.obeyed is None or not any(self.effective.values()):
            return None
        revision = chance.choices(list(self.effective), list(self.effective.values()))[0]
        seconds, outcome = self.answer_of(revision)
        self.envoy.start(Request(self._newest(), revision, now, now + seconds, outcome))
        return revision

    def answer(self, poll: Poll, now: float) -> GatewayState:
        """The whole state, for whoever asks; renews the switch of what is guarded."""
        for uid, interest in poll.programs.items():
            if interest.guarding is not None:
                self.switches.renew(uid, interest.guarding, now)
            self.book.forget_tables(uid, interest.kept, now)
        programs = {self.obeyed.uid: self._state(self.obeyed, now)} if self.obeyed else {}
        return GatewayState(self.pod, self.book.incarnation, "", programs, FEATURES)

    def restart_envoy(self, now: float) -> None:
        """Envoy ends: what it had in flight is lost, and its counters begin anew."""
        self.envoy = CountingEnvoy()
        self.book.close_all(now)

    def restart_agent(self) -> None:
        """The agent ends and cannot read its file: a new incarnation, which knows nothing."""
        self.book, self.switches, self.obeyed, self.effective = Book(), Switches(), None, {}

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

    def _state(self, obeyed: Routes, now: float) -> ProgramState:
        return ProgramState(
            serial=obeyed.serial,
            content=obeyed.content,
            listening=True,
            effective=dict(self.effective),
            totals=self.book.page(obeyed.uid).sums.totals(),
            tables=self.book.tables(obeyed.uid, now),
        )
