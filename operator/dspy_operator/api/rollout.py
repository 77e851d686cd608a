"""DSPyRollout: how a program may move from the version that serves to the one that is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from dspy_operator.api.program import LM


@dataclass(frozen=True, slots=True)
class ProgramRef:
    """The program, in the same namespace."""

    name: str


@dataclass(frozen=True, slots=True)
class Pause:
    """A wait: for a time, for a number of requests to the candidate, or for a person."""

    seconds: int | None = None
    requests: int | None = None
    approval: bool = False


@dataclass(frozen=True, slots=True)
class Watch:
    """All but `holdback_percent` of the traffic for the candidate, for a while in which going back is one change."""

    seconds: int
    holdback_percent: float = 5.0


@dataclass(frozen=True, slots=True)
class Mirror:
    """Copies of `percent` of the requests for the candidate, for so long and so many: whatever takes longer."""

    percent: float
    seconds: int | None = None
    requests: int | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One step: copies, a weight in percent, a wait, or, as the last one, a watch."""

    mirror: Mirror | None = None
    set_weight: float | None = None
    pause: Pause | None = None
    watch: Watch | None = None


class CanaryReplicas(StrEnum):
    """How many pods the candidate has while its weight rises."""

    FULL = "Full"
    WITH_WEIGHT = "WithWeight"


@dataclass(frozen=True, slots=True)
class Canary:
    """Steps in their order."""

    steps: tuple[Step, ...] = ()
    replicas: CanaryReplicas = CanaryReplicas.FULL


class Approval(StrEnum):
    """Whether a switch waits for a person."""

    AUTOMATIC = "Automatic"
    REQUIRED = "Required"


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a field of an answer must be: all that is given; without anything, there. A null is not given."""

    equals: Any = None
    pattern: str | None = None
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class SmokeRequest:
    """A request to a candidate's preview. `expect` is by the name of an output."""

    input: Mapping[str, Any]
    name: str = ""
    expect: Mapping[str, Expectation] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SmokeTest:
    """Requests of which at most `max_failures` may fail, before a candidate has traffic."""

    requests: tuple[SmokeRequest, ...]
    max_failures: int = 0
    timeout_seconds: int = 60


@dataclass(frozen=True, slots=True)
class BlueGreen:
    """The candidate at full size, then nearly all traffic at once, with the old revision kept warm for a while."""

    smoke_test: SmokeTest | None = None
    approval: Approval = Approval.AUTOMATIC
    warm_seconds: int = 300
    holdback_percent: float = 5.0


@dataclass(frozen=True, slots=True)
class UserCookie:
    """A cookie that the gateway sets for users whom nothing else tells apart."""

    name: str = "dspy-user"
    max_age_seconds: int = 31_536_000


@dataclass(frozen=True, slots=True)
class UserIdentity:
    """What tells users apart: a header, else a cookie. At least one is given."""

    header: str | None = None
    cookie: UserCookie | None = None


@dataclass(frozen=True, slots=True)
class Until:
    """When a comparison ends that is not decided before: whatever comes first."""

    users: int | None = None
    requests: int | None = None
    max_seconds: int = 604_800


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is compared: the share of users with a bad answer of one stream, or the mean of tokens, cost or score."""

    stream: str = "failed"
    confidence_percent: float = 95.0


class OnCompared(StrEnum):
    """What becomes of a candidate by the outcome of its comparison."""

    PROMOTE = "Promote"
    ROLLBACK = "Rollback"
    HOLD = "Hold"


@dataclass(frozen=True, slots=True)
class Variant:
    """Another candidate beside what the spec asks for: another version, or another language model, of the program."""

    name: str
    uri: str | None = None
    lm: LM | None = None


@dataclass(frozen=True, slots=True)
class ABTest:
    """A fixed share of the users for each candidate until they are told apart, or for as long as was said."""

    users: UserIdentity
    variants: tuple[Variant, ...] = ()
    candidate_percent: float | None = None
    compare: Comparison = Comparison()
    until: Until = Until()
    on_win: OnCompared = OnCompared.PROMOTE
    on_loss: OnCompared = OnCompared.ROLLBACK
    on_tie: OnCompared = OnCompared.HOLD
    warm_seconds: int = 300
    holdback_percent: float = 5.0
    unseen_seconds: int = 120


class StrategyType(StrEnum):
    """Which strategy."""

    CANARY = "Canary"
    BLUE_GREEN = "BlueGreen"
    AB_TEST = "ABTest"


@dataclass(frozen=True, slots=True)
class Strategy:
    """How traffic moves. `type` says which of the other fields is in force."""

    type: StrategyType
    canary: Canary = Canary()
    blue_green: BlueGreen = BlueGreen()
    ab_test: ABTest = ABTest(UserIdentity())


@dataclass(frozen=True, slots=True)
class PrometheusQuery:
    """A number that Prometheus knows, and how large it may be: at most `max`, or at most `tolerance_percent` above
    stable's. `server` is a name from the operator's configuration."""

    query: str
    server: str = "default"
    max: float | None = None
    tolerance_percent: float | None = None
    every_seconds: int = 15


@dataclass(frozen=True, slots=True)
class Stream:
    """What is judged of one kind of bad answers: a built-in kind, changed, or a kind of the user's own, by a flag. Or a
    number of Prometheus, which is no answer: it holds steps, and is no evidence.

    `share_percent` of the release's alpha; `tolerance_percent` more bad answers are no harm. Above `max_percent` a
    candidate is doubted, whatever stable does.
    """

    name: str
    flag: str = ""
    prometheus: PrometheusQuery | None = None
    enabled: bool = True
    share_percent: float | None = None
    tolerance_percent: float | None = None
    max_percent: float | None = None
    dry_run: bool = False


class OnUndecided(StrEnum):
    """What to do at the end of the steps when the candidate is neither proven worse nor proven no worse."""

    PAUSE = "Pause"
    PROMOTE = "Promote"


@dataclass(frozen=True, slots=True)
class Analysis:
    """The guard. `false_rollback_percent`: chance to roll back a candidate that is no worse, over the whole release."""

    false_rollback_percent: float = 0.1
    margin_percent: float = 2.0
    streams: tuple[Stream, ...] = ()
    on_undecided: OnUndecided = OnUndecided.PAUSE


@dataclass(frozen=True, slots=True)
class Subscription:
    """A receiver of the operator's configuration that is told of this program's transitions."""

    receiver: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WriteBack:
    """What the registry is told when a release ends."""

    promoted_alias: str = ""
    tags: bool = False


@dataclass(frozen=True, slots=True)
class RolloutSpec:
    """DSPyRollout.spec."""

    program_ref: ProgramRef
    strategy: Strategy
    paused: bool = False
    analysis: Analysis = field(default_factory=Analysis)
    notifications: tuple[Subscription, ...] = ()
    write_back: WriteBack = WriteBack()
    progress_deadline_seconds: int = 600
    step_deadline_seconds: int = 3600


@dataclass(frozen=True, slots=True)
class Policy:
    """A DSPyRollout as the plan sees it."""

    name: str
    uid: str
    created: str
    generation: int
    spec: RolloutSpec
    status: Mapping[str, object]
    resource_version: str
    unreadable: str = ""
    """Why its spec cannot be read by this operator: it governs all the same, and nothing moves under it."""


def policies_of(program: str, rollouts: tuple[Policy, ...]) -> tuple[Policy, ...]:
    """The rollouts that name a program, the oldest first: that one is in force."""
    named = (rollout for rollout in rollouts if rollout.spec.program_ref.name == program)
    return tuple(sorted(named, key=lambda rollout: (rollout.created, rollout.name)))
