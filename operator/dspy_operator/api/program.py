"""DSPyProgram: what should serve, with which language model, and how big. Defaults are here, not in the schema:
a revision's identity is what the user wrote, so a new default must not make a new revision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True)
class Model:
    """`uri` in MLflow's own syntax; `registry` is a name from the operator's configuration.

    `credentials_secret` is a Secret in the program's namespace with the variables by which pods prove themselves to the
    registry, such as MLFLOW_TRACKING_TOKEN. Only pods whose files are too large to be kept in the cluster need it.
    """

    uri: str
    registry: str = "default"
    credentials_secret: str | None = None


@dataclass(frozen=True, slots=True)
class SecretKey:
    """One key of a Secret in the program's namespace."""

    name: str
    key: str


@dataclass(frozen=True, slots=True)
class SecretName:
    """A whole Secret in the program's namespace."""

    name: str


@dataclass(frozen=True, slots=True)
class Credentials:
    """How the pod proves itself to the provider: a key from a file, variables from a Secret, or (neither) its
    identity."""

    api_key: SecretKey | None = None
    env_from: SecretName | None = None


@dataclass(frozen=True, slots=True)
class Price:
    """What a million tokens cost, in US dollars."""

    input: float
    output: float
    cached_input: float | None = None


@dataclass(frozen=True, slots=True)
class CircuitBreaker:
    """When an endpoint that fails is not asked for a while."""

    failure_percent: int = 50
    minimum_calls: int = 20
    window_seconds: int = 30
    open_seconds: int = 10


@dataclass(frozen=True, slots=True)
class Hedge:
    """When a second call is made beside one that takes unusually long."""

    percentile: int = 95
    max_extra_percent: float = 5


@dataclass(frozen=True, slots=True)
class LMEndpoint:
    """A model at a provider, and how that is reached."""

    model: str
    api: str = "chat"
    api_base: str | None = None
    region: str | None = None
    project: str | None = None
    location: str | None = None
    resource: str | None = None
    organization: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_seconds: int = 60
    max_retries: int = 2
    price: Price | None = None
    credentials: Credentials = Credentials()


@dataclass(frozen=True, slots=True)
class LM(LMEndpoint):
    """A language model, and what stands in for it."""

    parameters: Mapping[str, Any] = field(default_factory=dict)
    fallbacks: tuple[LMEndpoint, ...] = ()
    circuit_breaker: CircuitBreaker | None = None
    hedge: Hedge | None = None


@dataclass(frozen=True, slots=True)
class ProgramLM(LM):
    """The language model of a program, and those of single predictors."""

    by_predictor: Mapping[str, LM] = field(default_factory=dict)
    last_resort: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Schema:
    """JSON Schemas of what a program takes and returns, where its own types do not tell."""

    input: Mapping[str, Any] | None = None
    output: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Guardrail:
    """One check of what goes into a program, or of what comes out of it."""

    name: str
    target: str
    action: str = "Block"
    pattern: str = ""
    fields: tuple[str, ...] = ()
    match: Mapping[str, Any] | None = None
    function: str = ""
    timeout_seconds: float = 1


@dataclass(frozen=True, slots=True)
class RedisCredentials:
    """How pods prove themselves to a Redis."""

    password: SecretKey
    username: str = ""


@dataclass(frozen=True, slots=True)
class Redis:
    """A Redis that the program's pods share."""

    url: str
    credentials: RedisCredentials | None = None


@dataclass(frozen=True, slots=True)
class Cache:
    """Which answers are given again, and how many are kept in a pod's memory."""

    ttl_seconds: int = 3_600
    stale_seconds: int = 0
    max_entries: int = 10_000
    max_bytes: int = 64 << 20
    version: str = ""


@dataclass(frozen=True, slots=True)
class Budget:
    """What the calls of language models may cost in a day, and what becomes of requests beyond it."""

    usd_per_day: float
    on_exceeded: str = "Reject"


class Permission(StrEnum):
    """Whether requests may ask for something by a header."""

    DENY = "Deny"
    ALLOW = "Allow"


@dataclass(frozen=True, slots=True)
class Serving:
    """How one pod serves: requests at once, requests that may wait, how long one may take, and what it must be."""

    concurrency: int = 256
    queue: int = 64
    timeout_seconds: int = 60
    log_messages: bool = False
    priorities: Permission = Permission.DENY
    schema: Schema = Schema()


@dataclass(frozen=True, slots=True)
class Pod:
    """What users may say about pods. Maps merge with ours, lists append, scalars replace."""

    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    affinity: Mapping[str, Any] = field(default_factory=dict)
    topology_spread_constraints: tuple[Mapping[str, Any], ...] = ()
    priority_class_name: str | None = None
    service_account_name: str | None = None
    image_pull_secrets: tuple[Mapping[str, Any], ...] = ()
    volumes: tuple[Mapping[str, Any], ...] = ()
    volume_mounts: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class ConversationCookie:
    """A cookie that the gateway gives a conversation when it begins, of the program's own name unless it has another;
    how long a browser keeps it, in seconds."""

    name: str | None = None
    max_age_seconds: int = 1_800


@dataclass(frozen=True, slots=True)
class Conversations:
    """Where the token of a conversation is: in a header of answers, which clients send back, a cookie, or both."""

    header: str | None = None
    cookie: ConversationCookie | None = None


@dataclass(frozen=True, slots=True)
class Routing:
    """How requests find their revision, besides the draw."""

    force_header: Permission = Permission.DENY
    conversations: Conversations | None = None


@dataclass(frozen=True, slots=True)
class ProgramSpec:
    """DSPyProgram.spec."""

    model: Model
    lm: ProgramLM
    serving: Serving = Serving()
    replicas: int = 1
    resources: Mapping[str, Any] = field(default_factory=dict)
    env: tuple[Mapping[str, Any], ...] = ()
    image: str | None = None
    pod: Pod = Pod()
    routing: Routing = Routing()
    guardrails: tuple[Guardrail, ...] = ()
    redis: Redis | None = None
    cache: Cache | None = None
    budget: Budget | None = None
    rollout_policy: str = "Optional"


NOT_IN_REVISION = ("replicas", "rolloutPolicy", "routing")
"""Fields of the spec that change no answer and no pod; `model.uri` is replaced by what it resolves to."""
