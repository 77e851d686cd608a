"""The agent: learns routes and endpoints, has its Envoy obey them, and counts by draw table. One event loop.

`DesiredState` comes from the API server, the `Book` holds what was drawn and counted, the publisher brings the rest to
Envoy. A candidate has weight only while the operator renews its switch: each poll names the programs that it guards.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Mapping

import aiohttp
import grpc.aio
import yaml

from dspy_contract.logs import Logger
from dspy_contract.outcomes import Outcome
from dspy_contract.routes import Routes
from dspy_contract.state import FEATURES, GatewayState, Interest, Poll, ProgramState
from dspy_gateway import persisted, xds
from dspy_gateway.access_log import AccessLogServer, UserAnswer
from dspy_gateway.admin import Admin
from dspy_gateway.changes import Changes
from dspy_gateway.counts import Key, only_flags, read_statistics, statistics_query
from dspy_gateway.envoy.bootstrap import Bootstrap, bootstrap
from dspy_gateway.envoy.listeners import listener
from dspy_gateway.publisher import Publisher
from dspy_gateway.resources import DesiredState, ProgramResources, obeyed, program_resources
from dspy_gateway.settings import Settings
from dspy_gateway.users import ReleaseUsers, whose

BLIND_SECONDS = 5.0
"""An agent that has not read Envoy's counters for this long renews no switch: what it tells is old."""

INTEREST_SECONDS = 5.0
"""How long after its last poll a program is looked at often."""

FASTEST_LOOK_SECONDS, SLOWEST_LOOK_SECONDS, IDLE_LOOK_SECONDS = 0.1, 1.0, 20.0
LOOK_SHARE = 0.05
"""The share of a core that looking at the counters may take. Idle programs are looked at before Envoy forgets them."""

TICK_SECONDS = 0.25
SAVE_SECONDS = 1.0

log = Logger(__name__)


class Agent:
    """One gateway pod's agent."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._desired_file = settings.folder / "desired.json"
        self._book_file = settings.folder / "book.json"
        stored = persisted.load_desired(self._desired_file)
        self.desired = stored or DesiredState()
        self.has_state = stored is not None
        """True once the agent knows what to serve, from its file or from the API server."""
        self.book, self._switches = persisted.load_book(self._book_file)
        self._looked_at = float("-inf")
        self.discovery = xds.DiscoveryServer(self._envoy_said, self._refused, self._new_envoy)
        template = xds.ListenerTemplate(listener("", 1, settings.address))
        self.publisher = Publisher(self.discovery, template, self._render, self._refused)
        self.admin = Admin(settings.folder / "admin.sock")
        self._server: grpc.aio.Server | None = None
        self._opening = False
        self._saved_reserve = self.book.reserved
        self._effective: dict[str, Mapping[str, int]] = {}
        self._watched: dict[str, bool] = {}
        self._refusals: dict[str, str] = {}
        self._polled_at: dict[str, float] = {}
        self._users: dict[str, ReleaseUsers] = {}
        self._secret = settings.token_file.read_bytes().strip() if settings.token_file else b""
        self._changes = Changes()
        self._wake = asyncio.Event()
        self._unsaved = False

    # Its life.

    def prepare(self) -> None:
        """Writes Envoy's bootstrap, before Envoy starts."""
        settings = self.settings
        settings.folder.mkdir(parents=True, exist_ok=True)
        about = Bootstrap(
            str(settings.folder), settings.pod, settings.address, settings.probe_port, settings.memory_limit_bytes
        )
        (settings.folder / "bootstrap.yaml").write_text(yaml.safe_dump(bootstrap(about)))

    async def update(self, desired: DesiredState) -> None:
        """Takes what was learnt from the API server: publishes what changed, keeps it, opens the socket at first."""
        if desired == self.desired and self.has_state:
            return
        changed = self._uids(self.desired, desired)
        self.desired, self.has_state = desired, True
        self.book.forget_programs(desired.ports.ports)
        self._forget_programs()
        self._forget_users()
        self.publisher.mark(changed)
        persisted.save_desired(self._desired_file, desired)
        await self.open()

    def _forget_programs(self) -> None:
        for memory in (self._effective, self._watched, self._refusals, self._polled_at, self._users):
            for uid in memory.keys() - self.desired.ports.ports.keys():
                del memory[uid]
        self._switches.forget_programs(self.desired.ports.ports)
        self._changes.forget_programs(self.desired.ports.ports)

    def _forget_users(self) -> None:
        """Forgets the users of releases that have ended."""
        for uid, log_of in list(self._users.items()):
            routes = self.desired.routes.get(uid)
            if routes is None or routes.release is None or routes.release.id != log_of.release:
                del self._users[uid]

    async def open(self) -> None:
        """Opens the xDS socket, once, when there is something to tell: Envoy would drop what it is not told of."""
        if self.has_state and not self._opening:
            self._opening = True
            self.publisher.mark(set(self.desired.ports.ports))
            self.publisher.publish()
            self._server = await xds.serve(
                str(self.settings.folder / "xds.sock"), self.discovery, AccessLogServer(self._take_user)
            )

    @property
    def open_to_envoy(self) -> bool:
        """True once Envoy may start."""
        return self._server is not None

    async def run(self) -> None:
        """Looks at Envoy's counters, rotates tables and ends switches, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look_for_ever())
            group.create_task(self._tick_for_ever())

    async def close(self) -> None:
        """Keeps the book and closes the sockets."""
        self.publisher.close()
        persisted.save_book(self._book_file, self.book, self._switches)
        await self.admin.close()
        if self._server is not None:
            await self._server.stop(None)

    # What the operator asks.

    async def answer(self, poll: Poll) -> GatewayState:
        """What changed after the poll's token in the programs that it names; waits for something urgent if asked to."""
        await self._note_interest(poll)
        await self._changes.wait(poll.programs, poll.seen, poll.wait_seconds)
        changed = self._changes.since(poll.programs, poll.seen)
        return self.state({uid: poll.programs[uid] for uid in changed})

    def state(self, asked: Mapping[str, Interest] | None = None) -> GatewayState:
        """What the pod says of some programs, or of all (but not what their users met)."""
        chosen = dict.fromkeys(self.desired.ports.ports) if asked is None else asked
        return GatewayState(
            pod=self.settings.pod,
            incarnation=self.book.incarnation,
            token=self._changes.token,
            programs={
                uid: self._program_state(uid, interest)
                for uid, interest in chosen.items()
                if uid in self.desired.ports.ports
            },
            features=FEATURES,
            counts_age_seconds=round(min(time.monotonic() - self._looked_at, 1e9), 3),
        )

    def _program_state(self, uid: str, interest: Interest | None) -> ProgramState:
        users = self._users.get(uid)
        log = users.told(interest.heard_of_users, time.monotonic()) if users and interest else None
        if log and log.first + len(log.met) < log.length:
            self._changes.note({uid}, urgent=True)  # there is more to tell
        serial, content, _ = obeyed(self.discovery.confirmed_version((xds.ROUTES, uid)))
        return ProgramState(
            serial=serial,
            content=content,
            listening=self._listening(uid),
            effective=self._effective.get(uid, {}),
            totals=self.book.page(uid).sums.totals(),
            tables=self.book.tables(uid, time.monotonic()),
            refusal=self._refusals.get(uid, ""),
            users=log,
        )

    def _listening(self, uid: str) -> bool:
        confirmed = self.discovery.confirmed_version((xds.ROUTES, uid)) is not None
        return confirmed and self.discovery.acked((xds.LISTENER, uid))

    async def _note_interest(self, poll: Poll) -> None:
        if time.monotonic() - self._looked_at > BLIND_SECONDS:
            await self.look(poll.programs)
        now = time.monotonic()
        sees = now - self._looked_at <= BLIND_SECONDS
        for uid, interest in poll.programs.items():
            if now - self._polled_at.get(uid, -INTEREST_SECONDS) >= INTEREST_SECONDS:
                self._wake.set()
            self._polled_at[uid] = now
            if interest.kept:
                self.book.forget_tables(uid, interest.kept, now)
            if interest.guarding is not None and sees:
                self._switches.renew(uid, interest.guarding, now)
                self._unsaved = True
                if not self._watched.get(uid, True):
                    self.publisher.mark({uid})

    # What Envoy is told, and says.

    def _render(self, uid: str) -> ProgramResources | None:
        if uid not in self.desired.ports.ports:
            return None
        routes = self.desired.routes.get(uid)
        if routes is None or not routes.backends:
            self._effective[uid] = {}
            return program_resources(self.desired, uid, {}, "", self.settings.pod, self.settings.namespace)
        now = time.monotonic()
        watched = self._watched[uid] = self._switches.is_on(routes, now)
        weights = self.desired.effective(routes, watched)
        pods = sum(len(self.desired.usable(candidate)) for candidate in routes.candidates)
        table = self.book.draw(routes, weights, pods, now)
        self._unsaved = True
        if self.book.reserved != self._saved_reserve:
            # Written down before the name is published: a number is never used twice.
            persisted.save_book(self._book_file, self.book, self._switches)
            self._saved_reserve = self.book.reserved
        if self._effective.get(uid) != weights:
            self._effective[uid] = weights
            self._changes.note({uid}, urgent=True)
        return program_resources(self.desired, uid, weights, table, self.settings.pod, self.settings.namespace)

    def _envoy_said(self, keys: Collection[xds.Key] | None) -> None:
        if keys is None:
            self.publisher.mark(set(self.desired.ports.ports))
            return
        for key in keys:
            self._note_answer(key)

    def _note_answer(self, key: xds.Key) -> None:
        uids = self.publisher.programs_of(key)
        if key[0] == xds.ROUTES:
            _, _, number = obeyed(self.discovery.confirmed_version(key))
            if number:
                self.book.page(key[1]).tables.confirm(number, time.monotonic())
            if self.discovery.acked(key):
                self._refusals.pop(key[1], None)
        if key[0] in (xds.ROUTES, xds.LISTENER):
            self._changes.note(uids, urgent=True)
        self.publisher.mark(uids)

    def _new_envoy(self) -> None:
        """An Envoy process has just started: what its predecessor had open is lost, and nothing draws as before."""
        self.book.close_all(time.monotonic())
        self._changes.note(set(self.desired.ports.ports), urgent=False)
        # At once: this Envoy must never draw by a table of its predecessor.
        self.publisher.mark(set(self.desired.ports.ports))
        self.publisher.publish()

    def _refused(self, key: xds.Key, message: str) -> None:
        log.error("A resource was refused", kind=key[0].rpartition(".")[2], name=key[1], error=message)
        for uid in self.publisher.programs_of(key):
            self._refusals[uid] = message[:500]
            self._changes.note({uid}, urgent=True)

    # What is counted.

    async def _look_for_ever(self) -> None:
        everything_at = 0.0
        while True:
            now = time.monotonic()
            uids = {uid for uid, at in self._polled_at.items() if now - at < INTEREST_SECONDS}
            whole = now - everything_at >= IDLE_LOOK_SECONDS
            if whole:
                everything_at = now
                self._polled_at = {uid: self._polled_at[uid] for uid in uids}
            if whole or uids:
                await self.look(None if whole else uids)
            spent = time.monotonic() - now
            fast = min(max(spent / LOOK_SHARE, FASTEST_LOOK_SECONDS), SLOWEST_LOOK_SECONDS)
            pause = fast if uids else SLOWEST_LOOK_SECONDS
            self._wake.clear()
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def look(self, uids: Collection[str] | None = None) -> None:
        """One look at the counters of some programs, or of all."""
        began = time.monotonic()
        try:
            reading = read_statistics(await self.admin.json(statistics_query(uids)), self.book.incarnation)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError) as error:
            log.warning("Envoy's counters could not be read", error=type(error).__name__)
            return
        self._looked_at = began
        for uid in self.desired.ports.ports if uids is None else uids:
            if uid in self.desired.ports.ports:
                self._take(uid, reading, began)
        await self._changes.tell()

    def _take(self, uid: str, reading: Mapping[str, Counter[Key]], began: float) -> None:
        sums = self.book.page(uid).sums
        bad = sums.bad_answers()
        routes = self.desired.routes.get(uid)
        if sums.take(only_flags(reading.get(uid, Counter()), routes.flags if routes else ())):
            self._unsaved = True
            self._changes.note({uid}, urgent=sums.bad_answers() > bad)
        if self.book.settle(uid, began):
            self._unsaved = True
            self._changes.note({uid}, urgent=True)

    def _take_user(self, answer: UserAnswer) -> None:
        """An answer to a user who was drawn."""
        routes, now = self.desired.routes.get(answer.uid), time.monotonic()
        entry = self.book.page(answer.uid).tables.entries.get(answer.table)
        if routes is None or entry is None or answer.incarnation != self.book.incarnation:
            return
        found = whose(answer, routes, entry)
        if found is None or routes.release is None or not entry.judged:
            return
        user, drawn = found
        if entry.release != routes.release.id or drawn.release != entry.release:
            return  # it was drawn before the release: it is no part of the experiment
        log_of = self._users.get(answer.uid)
        if log_of is None:
            measure, several = routes.users.measure if routes.users else "", len(routes.candidates) > 1
            about = answer.uid, entry.release, now, self._secret, measure, several
            log_of = self._users[answer.uid] = ReleaseUsers(*about)
        if log_of.take(answer, user, entry, routes.flags, now, drawn):
            self._changes.note({answer.uid}, urgent=answer.outcome not in (Outcome.OK, Outcome.CANCELLED))

    async def _tick_for_ever(self) -> None:
        saved_at = time.monotonic()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = time.monotonic()
            self.publisher.mark(self._due(now))
            for uid in self.book.pages:
                self.book.forget_tables(uid, 0, now)
            if self._unsaved and now - saved_at >= SAVE_SECONDS:
                self._unsaved, saved_at = False, now
                persisted.save_book(self._book_file, self.book, self._switches)
            await self._changes.tell()

    def _due(self, now: float) -> set[str]:
        """The programs in release whose table has drawn for long enough, or whose switch has ended."""
        return {uid for uid, routes in self.desired.routes.items() if routes.release and self._is_due(uid, routes, now)}

    def _is_due(self, uid: str, routes: Routes, now: float) -> bool:
        if uid not in self._effective:
            return False
        if self._watched.get(uid) and not self._switches.is_on(routes, now):
            return True
        return self.book.page(uid).tables.needs_another(routes, self._effective[uid], now)

    @staticmethod
    def _uids(before: DesiredState, after: DesiredState) -> set[str]:
        """The programs whose resources may have to change."""
        uids = before.ports.ports.keys() | after.ports.ports.keys()
        return {uid for uid in uids if before.facts(uid) != after.facts(uid)}
