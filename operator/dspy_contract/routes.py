"""What the operator asks of the gateways: one `Routes` per program, one `PortTable` per namespace. Pure.

How desired weights become effective ones, given who can answer and whether anybody watches the candidate, is decided
here and nowhere else (`effective_weights`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import msgspec

from dspy_contract import stat_names
from dspy_contract.stat_names import cached, mirrored

TOTAL_WEIGHT = 10_000
"""All of the traffic, in basis points."""

ROUTES_LABEL = "dspy.dev/routes"
RELEASE_NEEDS = ("tables", "switch")
"""Features of an agent without which no candidate gets traffic from it."""

FLAGS_FEATURE = "flags"
"""Needed as well where flags are judged: whoever does not count them sees none."""

USERS_FEATURE = "users"
"""Needed as well where users are drawn: whoever draws requests would change their revision all the time."""

MEASURE_FEATURE = "measure"
"""Needed as well where users are compared by a mean."""

CONVERSATIONS_FEATURE = "conversations"
"""Needed as well where conversations stay at a revision: whoever draws their requests anew would move them."""

MIRROR_FEATURE = "mirror"
"""Needed as well where requests are copied."""

CACHE_FEATURE = "cache"
"""Needed as well where revisions give answers again: whoever draws alike what goes past that and what does not compares
nothing."""

LEAST_JUDGED = 2_000
"""Basis points of the traffic that go past stable's cache while a release moves, if stable has as much."""

PORTS_LABEL = "dspy.dev/ports"
REVISION_LABEL = "dspy.dev/revision"
PROGRAM_LABEL = "dspy.dev/program"
TOKENS, COST, SCORE = stat_names.TOKENS, stat_names.COST, "score"
MEASURES = (TOKENS, COST, SCORE)
"""What an answer says of itself in numbers: tokens of language models, US dollars, and how good it is, from 0 to 1.
Where one of the first two is judged, its name is a feature that is needed."""

CONTENT_KEY = "content.json"
GATEWAY_NAME = "dspy-gateway"
"""The name of every object that a namespace's gateway consists of, the port table among them."""

_ROUTES_SUFFIX, _PREVIEW_SUFFIX = "-routes", "-preview"
STATE_PORT = 9902
PROBE_PORT = 9903
"""Envoy's own readiness, on every gateway pod."""
RUNTIME_PORT = 8080
RUNTIME_PROBE_PORT = 8081
FIRST_PORT = 10_000
LAST_PORT = 10_999
LONGEST_TIMEOUT_SECONDS = 86_400

BasisPoints = Annotated[int, msgspec.Meta(ge=0, le=TOTAL_WEIGHT)]
Serial = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
UNREADABLE = (msgspec.DecodeError, KeyError, TypeError, RecursionError)
"""What reading a value of this contract out of an object may raise."""


@dataclass(frozen=True, slots=True)
class Backend:
    """A revision of the program, its desired weight, and the share of stable's requests of which it gets copies, whose
    answers nobody gets; in basis points."""

    revision: str
    weight: BasisPoints
    mirror: BasisPoints = 0


@dataclass(frozen=True, slots=True)
class ReleaseRef:
    """The release that moves now. Ids only grow within a program.

    `epoch` grows when the operator asks for a new draw table.
    """

    id: Serial
    stable: str
    candidates: tuple[str, ...]
    epoch: Serial = 0


@dataclass(frozen=True, slots=True)
class Lowered:
    """A candidate whose weight the guard took away, and why.

    `number` only grows within a release.
    """

    release: Serial
    number: Serial
    revision: str
    reason: str
    stream: str
    message: str


@dataclass(frozen=True, slots=True)
class Pin:
    """What `undo` asked for: a revision, and the one that the spec asked for then, instead of which it serves."""

    revision: str
    instead_of: str


@dataclass(frozen=True, slots=True)
class Users:
    """How users are told apart who are drawn once, for all of their requests: by a header, else by a cookie that the
    gateway sets. Requests that tell of no user are drawn each for itself.

    The draw is a hash of the user. `start` (basis points) is where the candidates' range of hashes begins: another one
    in each release, so that it is not always the same users who are first. Of several candidates each has a place of
    its own, so that nobody moves when one of them goes: `starts` has those that begin elsewhere. `measure` names what
    is summed of each user's answers, one of MEASURES; empty for nothing.
    """

    header: str = ""
    cookie: str = ""
    cookie_seconds: int = 0
    start: BasisPoints = 0
    unseen_seconds: int = 120
    """How long counts may be missing before the candidate loses its users."""
    measure: str = ""
    starts: tuple[tuple[str, BasisPoints], ...] = ()

    def start_of(self, candidate: str) -> int:
        """Where a candidate's range begins."""
        return dict(self.starts).get(candidate, self.start)


@dataclass(frozen=True, slots=True)
class Conversations:
    """How a conversation stays at the revision that was drawn for its first request: the gateway gives it a token, in a
    header of the answer or as a cookie, and its client sends that back. Requests without one begin a conversation."""

    header: str = ""
    cookie: str = ""
    cookie_seconds: int = 0


@dataclass(frozen=True, slots=True)
class Routes:
    """Where a program's traffic should go. Serials only grow; an agent ignores a smaller one of the same uid.

    `backends` lists stable first: when nobody with weight can answer, the first that can takes the traffic.
    `refused`, `pin`, and `releases`, how many there have been, outlive a status that is lost. `needs` names features
    without which an agent must not serve candidates. `forced`: a request may name the revision that is to answer it.
    `flags` of answers are counted, and no others: a program may say anything. `users`: a user is drawn, not a request.
    `conversations`: so is a conversation, and it stays where it is; without effect where users are drawn.
    `cached`: revisions give answers again, so that requests are compared that go past that (see `effective_weights`).
    `content` is a hash of the text that they were read from, which agents confirm beside the serial: two processes of
    different versions agree on a text, not on what they make of it.
    """

    program: str
    uid: str
    serial: Serial
    timeout_seconds: Annotated[int, msgspec.Meta(ge=1, le=LONGEST_TIMEOUT_SECONDS)]
    backends: tuple[Backend, ...]
    release: ReleaseRef | None = None
    lowered: Lowered | None = None
    refused: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    releases: Serial = 0
    pin: Pin | None = None
    forced: bool = False
    flags: tuple[str, ...] = ()
    users: Users | None = None
    conversations: Conversations | None = None
    cached: bool = False
    content: str = field(default="", compare=False)

    def backend(self, revision: str) -> Backend:
        """What is desired of a revision; nothing when it is not listed."""
        return next((backend for backend in self.backends if backend.revision == revision), Backend(revision, 0))

    @property
    def tries_candidates(self) -> bool:
        """Whether a candidate gets requests, or copies of them."""
        return any(each.weight or each.mirror for each in map(self.backend, self.candidates))

    @property
    def candidates(self) -> tuple[str, ...]:
        """The candidates of the release that moves."""
        return self.release.candidates if self.release else ()


@dataclass(frozen=True, slots=True)
class Port:
    """The listener port of a program; it rests for a while after `freed_at` (Unix seconds), when the program went."""

    program: str
    port: Annotated[int, msgspec.Meta(ge=1, le=65_535)]
    freed_at: float | None = None


@dataclass(frozen=True, slots=True)
class PortTable:
    """Which program, by uid, listens on which port of the namespace's gateway."""

    ports: Mapping[str, Port] = field(default_factory=dict)


def effective_weights(routes: Routes, usable: Collection[str], watched: bool = True) -> dict[str, int]:
    """The weights to apply, in basis points: the desired ones of the revisions that can answer. What the others leave
    is stable's, or, where that cannot answer, everybody's in proportion.

    A candidate that nobody watches has no weight. When no revision with weight can answer, the first listed that can
    takes everything, a candidate as well. When none can answer at all, the desired weights stand, and clients get the
    gateway's own 503. Shares that are copied stand beside them, under the names of `mirrored`.

    An answer that was given before says nothing of its revision, and a candidate has given fewer. So where revisions
    are `cached`, what is judged goes past the cache: all that candidates get, and as much of stable's, or LEAST_JUDGED.
    The rest stands under the names of `cached`. Where users or conversations are drawn, or requests copied, all are
    judged.
    """
    weights = _drawn_weights(routes, usable, watched)
    copied = {
        mirrored(backend.revision): backend.mirror
        for backend in routes.backends
        if backend.mirror and watched and backend.revision in usable and not weights[backend.revision]
    }
    if routes.cached and not copied and routes.users is None and routes.conversations is None:
        return _judged_weights(weights, routes)
    return weights | copied


def _judged_weights(weights: Mapping[str, int], routes: Routes) -> dict[str, int]:
    """All of a candidate's; of the others' as much as the candidate has that has most, or LEAST_JUDGED."""
    most = max([LEAST_JUDGED, *(weights.get(candidate, 0) for candidate in routes.candidates)])
    parts: dict[str, int] = {}
    for name, weight in weights.items():
        judged = weight if name in routes.candidates else min(weight, most)
        parts[name] = judged if routes.release else 0
        if weight > parts[name]:
            parts[cached(name)] = weight - parts[name]
    return parts


def _drawn_weights(routes: Routes, usable: Collection[str], watched: bool) -> dict[str, int]:
    desired = {backend.revision: backend.weight for backend in routes.backends}
    unseen = () if watched else routes.candidates
    able = {name: weight for name, weight in desired.items() if name in usable and weight > 0 and name not in unseen}
    if able:
        stable = next(iter(desired))
        if stable in able:
            able[stable] += TOTAL_WEIGHT - sum(able.values())
        return dict.fromkeys(desired, 0) | _scaled(able)
    fallback = next((revision for revision in desired if revision in usable), None)
    if fallback is None:
        return desired
    return {revision: TOTAL_WEIGHT * (revision == fallback) for revision in desired}


def ranges(weights: Mapping[str, int], candidates: Collection[str], users: Users) -> tuple[tuple[str, int], ...]:
    """Effective weights, which sum to 10,000, as ranges of hashes, in their order: (revision, width).

    A candidate's begins at its start, or where the one before it ends, and what reaches over the end goes on at the
    beginning. One that gains or loses weight keeps its place: nobody moves who need not.
    """
    first = users.start
    laid = _laid(weights, {name: (users.start_of(name) - first) % TOTAL_WEIGHT for name in candidates})
    room, before, after = TOTAL_WEIGHT - first, [], []
    for name, width in laid:
        fits = min(width, room)
        room -= fits
        after.append((name, fits))
        before.append((name, width - fits))
    return tuple((name, width) for name, width in (*before, *after) if width)


def _laid(weights: Mapping[str, int], starts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Ranges from 0 on, the candidates' where they start, with the others' between them."""
    others = [(name, width) for name, width in weights.items() if name not in starts]
    laid: list[tuple[str, int]] = []
    left, at = sum(weights.get(name, 0) for name in starts), 0
    for name in sorted(starts, key=lambda each: starts[each]):
        gap = min(max(starts[name] - at, 0), TOTAL_WEIGHT - at - left)
        between, others = _cut(others, gap)
        laid += [*between, (name, weights.get(name, 0))]
        at += gap + weights.get(name, 0)
        left -= weights.get(name, 0)
    return [*laid, *others]


def _cut(row: Sequence[tuple[str, int]], width: int) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """The first `width` of a row, and the rest of it."""
    first, rest = [], []
    for name, each in row:
        fits = min(each, width)
        width -= fits
        first.append((name, fits))
        rest.append((name, each - fits))
    return first, rest


def next_port(table: PortTable, now: float, rest_seconds: float) -> int | None:
    """The lowest port that no program holds and that has rested; None when all are taken."""
    taken = {port.port for port in table.ports.values() if port.freed_at is None or now - port.freed_at < rest_seconds}
    return next((port for port in range(FIRST_PORT, LAST_PORT + 1) if port not in taken), None)


def routes_name(program: str) -> str:
    """The ConfigMap with a program's routes. One of another name that has its labels is a copy, and is not believed."""
    return f"{program}{_ROUTES_SUFFIX}"


def preview_of(program: str) -> str:
    """The name, or the uid, under which a program's preview is a program of its own to the gateways."""
    return f"{program}{_PREVIEW_SUFFIX}"


def dump(value: Routes | PortTable) -> str:
    """The JSON text of a value of this contract."""
    bare = replace(value, content="") if isinstance(value, Routes) else value
    return msgspec.json.encode(bare, order="sorted").decode()


def load_routes(text: str) -> Routes:
    """Reads `dump(Routes)`; unknown fields, of a newer operator, are ignored. Raises what UNREADABLE names."""
    return replace(msgspec.json.decode(text, type=Routes), content=hashlib.sha256(text.encode()).hexdigest()[:16])


def load_ports(text: str) -> PortTable:
    """Reads `dump(PortTable)`; as forgiving, and as strict, as `load_routes`."""
    return msgspec.json.decode(text, type=PortTable)


def _scaled(weights: Mapping[str, int]) -> dict[str, int]:
    """Weights in proportion, summing to 10,000 exactly: the largest remainders get what rounding left over."""
    total = sum(weights.values())
    floors = {name: weight * TOTAL_WEIGHT // total for name, weight in weights.items()}
    by_remainder = sorted(weights, key=lambda name: (-(weights[name] * TOTAL_WEIGHT % total), name))
    for name in by_remainder[: TOTAL_WEIGHT - sum(floors.values())]:
        floors[name] += 1
    return floors
