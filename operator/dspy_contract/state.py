"""What one gateway pod tells the operator, and what it is asked. Pure.

Every answer is counted under the weights that drew it, in a draw table: what the judgement stands on. Times are ages,
so that no two clocks are compared.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import msgspec

from dspy_contract.routes import (
    CACHE_FEATURE,
    CONVERSATIONS_FEATURE,
    COST,
    FLAGS_FEATURE,
    MEASURE_FEATURE,
    MIRROR_FEATURE,
    RELEASE_NEEDS,
    TOKENS,
    USERS_FEATURE,
)

FEATURES = (
    *RELEASE_NEEDS,
    FLAGS_FEATURE,
    USERS_FEATURE,
    TOKENS,
    COST,
    MIRROR_FEATURE,
    CONVERSATIONS_FEATURE,
    MEASURE_FEATURE,
    CACHE_FEATURE,
)
"""What this version of the agent can do, as it tells every operator that asks."""

FAST_EDGES_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.35)
SLOW_EDGES_SECONDS = (
    0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 3.75, 4.75, 6.0, 7.5, 9.25, 11.5, 14.25, 17.75, 22.25, 27.75, 34.75,
    43.5, 54.25, 67.75, 84.75, 106.0, 132.5, 165.5, 207.0, 258.75, 300.0,
)  # fmt: skip
"""Multiples of the flush interval of open requests, about 25 % apart."""

WARMUP_SECONDS = 30.0
"""A pod is cold for this long: how fast it answers meanwhile says little of its revision."""

EDGES_SECONDS = FAST_EDGES_SECONDS + SLOW_EDGES_SECONDS
"""The grid of ages: how many requests became as old as each edge is counted, answered or not."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Requests of one revision under one draw. `older` counts, per edge of the grid, those that became that old;
    `flags`, by name, the answers that carried that flag; `tokens` what all answers together took; `cost` what those
    cost, in billionths of a US dollar, whose price is known: so many were `priced`."""

    started: int = 0
    outcomes: Mapping[str, int] = field(default_factory=dict)
    older: Mapping[int, int] = field(default_factory=dict)
    flags: Mapping[str, int] = field(default_factory=dict)
    tokens: int = 0
    cost: int = 0
    priced: int = 0

    @property
    def answered(self) -> int:
        """Requests that ended in any way."""
        return sum(self.outcomes.values())

    def ended_as(self, outcomes: Collection[str]) -> int:
        """Requests that ended in one of these ways."""
        return sum(self.outcomes.get(outcome, 0) for outcome in outcomes)

    @property
    def open(self) -> int:
        """Requests that started and have not ended."""
        return max(self.started - self.answered, 0)


@dataclass(frozen=True, slots=True)
class DrawTable:
    """The requests that one table of effective weights drew in one gateway pod.

    Tables are numbered in the order in which they opened. `settled`: a newer one draws, and every request has ended.
    `weights` has the shares that are copied as well (`mirrored`), and those that are not judged (`cached`). Not
    `judged`: weights changed faster than once a second. `warm_seconds`: how long ago, when it opened, the candidate's
    usable pods had last become more. `release` and `epoch` are those of the routes.
    """

    number: int
    age_seconds: float
    weights: Mapping[str, int]
    counts: Mapping[str, Counts] = field(default_factory=dict)
    release: int | None = None
    epoch: int = 0
    warm_seconds: float = 0.0
    judged: bool = True
    settled: bool = False


@dataclass(frozen=True, slots=True)
class Met:
    """An answer to a user that was the first of its kind for that user in this gateway pod.

    `user` is a hash that tells nothing of the user and nothing across releases. `at` is when it ended, in seconds since
    the log began, and `seconds` how long it took.
    `weight` is the revision's, in basis points, in the draw table, of `epoch`, by which the user was drawn. `edge` is
    the last edge of the grid that the answer was as old as; -1 for none. `later`: by a token that its client sent: of
    a conversation that nobody heard begin it says nothing, for a client may send anything.

    `weights` are those of all revisions that had some, in a release of several candidates.

    `measured` counts the user's answers in this pod until now that told what is measured, and `measure` is their sum:
    as of the first, second, fourth, eighth ... one of them, so that a user who asks a lot does not fill the log.
    """

    user: str
    at: float
    seconds: float
    revision: str
    weight: int
    epoch: int
    outcome: str
    flags: tuple[str, ...] = ()
    edge: int = -1
    later: bool = False
    measured: int = 0
    measure: float = 0.0
    weights: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UserLog:
    """What the users of one release met in one gateway pod, in its order, from `first` on. A log of another `id` begins
    anew. `length`: how much there is in all; `halvings`: see `is_sampled`; `incarnation`: one series of sums."""

    id: str
    release: int
    age_seconds: float
    first: int = 0
    length: int = 0
    met: tuple[Met, ...] = ()
    halvings: int = 0
    incarnation: str = ""


def is_sampled(user: str, halvings: int) -> bool:
    """Whether a user, by its hash, belongs to the sample: to all of them, or half, or a quarter ... So a sample stays
    bounded and has newcomers as well, and nobody is in it or not by what it met."""
    return int(user, 16) >> (64 - halvings) == 0


@dataclass(frozen=True, slots=True)
class ProgramState:
    """What one gateway pod says of one program.

    `serial` and `content` (its hash) are of the routes that Envoy obeys; `refusal` is why newer ones are not obeyed.
    `totals` are the counts of each revision since the pod first saw it, over all tables.
    """

    serial: int = 0
    content: str = ""
    listening: bool = False
    effective: Mapping[str, int] = field(default_factory=dict)
    totals: Mapping[str, Counts] = field(default_factory=dict)
    tables: tuple[DrawTable, ...] = ()
    refusal: str = ""
    users: UserLog | None = None


@dataclass(frozen=True, slots=True)
class GatewayState:
    """The answer of one agent: what changed since the caller's token.

    `incarnation` names one series of draw tables: with another one, all that was counted before is over.
    """

    pod: str
    incarnation: str
    token: str
    programs: Mapping[str, ProgramState]
    features: tuple[str, ...] = ()
    counts_age_seconds: float = 0.0
    """How long ago Envoy's counters were last read: an agent that cannot read them sees nothing."""


@dataclass(frozen=True, slots=True)
class Interest:
    """What a poll says of one program.

    `guarding`: the release whose tables the guard has looked at: renews the candidate's switch. `kept`: every table up
    to this number is settled and kept by the operator, and may be forgotten. `heard_of_users`: the operator has so much
    of the log of users of that id.
    """

    guarding: int | None = None
    kept: int = 0
    heard_of_users: tuple[str, int] = ("", 0)


@dataclass(frozen=True, slots=True)
class Poll:
    """A question to an agent. With `wait_seconds` it is answered when something changed after `seen`, or then."""

    programs: Mapping[str, Interest] = field(default_factory=dict)
    seen: str = ""
    wait_seconds: float = 0.0


def dump_state(state: GatewayState) -> bytes:
    """The JSON text of an answer."""
    return msgspec.json.encode(state)


def load_state(text: str | bytes) -> GatewayState:
    """Reads an answer; unknown fields are ignored. Raises msgspec.DecodeError."""
    return msgspec.json.decode(text, type=GatewayState)


def dump_poll(poll: Poll) -> bytes:
    """The JSON text of a question."""
    return msgspec.json.encode(poll)


def load_poll(text: str | bytes) -> Poll:
    """Reads a question; unknown fields are ignored. Raises msgspec.DecodeError."""
    return msgspec.json.decode(text, type=Poll)
