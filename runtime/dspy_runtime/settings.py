"""What the pod's environment says. Every setting has a default that works on a laptop."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings, JsonConfigSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict


class PriceSettings(BaseModel):
    """What a million tokens of a model cost, in US dollars."""

    model_config = ConfigDict(extra="forbid")

    input: float
    output: float
    cached_input: float | None = None
    """Of the input, what the provider had cached; as the rest, unless given."""


class BreakerSettings(BaseModel):
    """When an endpoint that fails is not asked for a while."""

    model_config = ConfigDict(extra="forbid")

    failure_percent: float = 50
    """Of the calls of the window, failed ones that open it."""
    minimum_calls: int = 20
    """In the window, before it opens."""
    window_seconds: float = 30
    open_seconds: float = 10
    """Until one call may try."""


class HedgeSettings(BaseModel):
    """When a second call is made beside one that takes unusually long."""

    model_config = ConfigDict(extra="forbid")

    percentile: int = 95
    """Of the answers of the last minutes: beyond it a call takes unusually long."""
    max_extra_percent: float = 5
    """Second calls, of all calls."""


class EndpointSettings(BaseModel):
    """One model of one provider, and how it is called."""

    model_config = ConfigDict(extra="forbid")

    model: str = ""
    """`provider/model`, such as openai/gpt-4o-mini."""
    api: Literal["chat", "responses"] = "chat"
    """The provider's API: Chat Completions or what it has instead, or OpenAI's Responses."""
    api_base: str | None = None
    """Base URL of the provider's API, including its version (`.../v1`)."""
    api_key_file: Path | None = None
    """A file with the API key; read again when it changes."""
    region: str = ""
    """Of AWS."""
    project: str = ""
    """Of Google Cloud, or of OpenAI."""
    location: str = ""
    """Of Google Cloud."""
    resource: str = ""
    """Of Azure."""
    organization: str = ""
    """Of OpenAI."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Sent with every call."""
    timeout_seconds: float = 60.0
    """How long one call of the provider may be silent."""
    max_retries: int = 2
    """How often a call is tried again after a rate limit, a server error or a lost connection."""
    price: PriceSettings | None = None
    """Instead of the list price of the provider, where that is known."""


class LMSettings(EndpointSettings):
    """One language model, as `spec.lm` says it: an endpoint, and those that stand in for it."""

    parameters: dict[str, Any] = Field(default_factory=dict)
    """Parameters of every call, such as temperature and max_tokens. What is below `extra_body` is sent as it is, to
    this endpoint only."""
    fallbacks: list[EndpointSettings] = Field(default_factory=list)
    """Asked in this order when what comes before them fails or is not to be asked."""
    circuit_breaker: BreakerSettings | None = None
    """Of each endpoint; with fallbacks there is one anyway."""
    hedge: HedgeSettings | None = None
    """None: no call is made twice at once."""


class DefaultLMSettings(LMSettings):
    """The language model of a program, and those of single predictors."""

    by_predictor: dict[str, LMSettings] = Field(default_factory=dict)
    """Models of single predictors, by the path that DSPy's `named_predictors` gives them."""
    last_resort: dict[str, Any] = Field(default_factory=dict)
    """The answer, by field, when no language model answers; none where it is empty."""


class SchemaSettings(BaseModel):
    """JSON Schemas of the two sides, as `spec.serving.schema` gives them; None where the program's types tell."""

    model_config = ConfigDict(extra="forbid")

    input: dict[str, Any] | None = None
    """What every request must be, checked before the program's own types."""
    output: dict[str, Any] | None = None
    """What every answer must be; its properties are the fields that are answered."""


class GuardrailSettings(BaseModel):
    """One check of what goes into a program, or of what comes out of it."""

    model_config = ConfigDict(extra="forbid")

    name: str
    target: Literal["Input", "Output"]
    action: Literal["Block", "Flag", "Mask"] = "Block"
    pattern: str = ""
    """What no text may have in it."""
    fields: list[str] = Field(default_factory=list)
    """In which a pattern is looked for; all, where it is empty."""
    match: dict[str, Any] | None = None
    """A JSON Schema that the fields must be of."""
    function: str = ""
    """`module:name` of the version's code, or the name of an entry point of the image."""
    timeout_seconds: float = 1.0


class RedisSettings(BaseModel):
    """A Redis that the program's pods share."""

    model_config = ConfigDict(extra="forbid")

    url: str
    """`redis://host:port/database`, or `rediss://` for TLS."""
    username: str = ""
    password_file: Path | None = None
    """A file with the password; read again with every new connection."""


class CacheSettings(BaseModel):
    """Which answers are given again."""

    model_config = ConfigDict(extra="forbid")

    ttl_seconds: float = 3600
    """For how long an answer is given again."""
    stale_seconds: float = 0
    """For how much longer it is given when nobody answers anew."""
    max_entries: int = 10_000
    """In a pod's memory."""
    max_bytes: int = 64 << 20
    """In a pod's memory."""
    version: str = ""
    """Answers of another version are not given again."""


class BudgetSettings(BaseModel):
    """What the calls of language models may cost."""

    model_config = ConfigDict(extra="forbid")

    usd_per_day: float
    """US dollars, from midnight to midnight UTC; of all pods together where they share a Redis, else of each pod."""
    on_exceeded: Literal["Reject", "Fallback"] = "Reject"
    """Requests are refused, or the models that stand in are asked."""


SETTINGS_FILE = "DSPY_RUNTIME_SETTINGS_FILE"
"""The variable that names a JSON file of settings, which a pod's revision pins. Other variables go before it."""


class Settings(BaseSettings):
    """Settings of the runtime, from a file and DSPY_RUNTIME_* variables (DSPY_RUNTIME_LM_* of the language model)."""

    model_config = SettingsConfigDict(env_prefix="DSPY_RUNTIME_", env_nested_delimiter="_", env_nested_max_split=1)

    model: str = ""
    """A directory that MLflow logged, an archive of one, or a `models:/...` uri. The command line's argument goes
    before it."""
    digest: str = ""
    """The digest that the version's files must have; any, unless given."""
    lm: DefaultLMSettings = Field(default_factory=DefaultLMSettings)
    """The language model."""
    given_schema: SchemaSettings = Field(default_factory=SchemaSettings)
    """What the program takes and returns, where its own types do not tell."""
    guardrails: list[GuardrailSettings] = Field(default_factory=list)
    """Checks around the program, in their order."""
    redis: RedisSettings | None = None
    """What the program's pods share; None where each is alone."""
    cache: CacheSettings | None = None
    """None: every request is answered anew."""
    budget: BudgetSettings | None = None
    """None: calls of language models may cost what they like."""
    concurrency: int = 256
    """Requests that run at once."""
    priorities: Literal["Deny", "Allow"] = "Deny"
    """Whether a request may say how urgent it is, by the header x-dspy-priority."""
    queue: int = 64
    """Requests that may wait for a place; the next is answered 503."""
    timeout_seconds: float = 60.0
    """How long one request may take, waiting included."""
    host: str = ""
    """The address of both servers."""
    port: int = 8080
    """The port of /predict and /schema."""
    probe_port: int = 8081
    """The port of the probes and the metrics, which no gateway routes to."""
    drain_seconds: int = 90
    """How long requests in flight may go on after SIGTERM."""
    work_folder: Path = Path(tempfile.gettempdir())
    """Where a downloaded model is put."""
    termination_log: Path = Path("/dev/termination-log")
    """Where the reason of a failed start is written, one JSON line."""
    revision: str = ""
    """The revision's name, a label of every metric."""
    program: str = ""
    """The program's namespace and name, as what its pods share knows it."""
    log_level: str = "info"
    """The lowest level that is logged."""
    log_messages: bool = False
    """Whether the words of exceptions and of DSPy are logged, which may hold what users ask."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is given, then variables, then the file."""
        file = os.environ.get(SETTINGS_FILE)
        return init_settings, env_settings, JsonConfigSettingsSource(settings_cls, json_file=file)


def quiet_libraries() -> None:
    """Says to libraries, before they are imported, that nothing is sent home and no price map is downloaded."""
    for name, value in {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    }.items():
        os.environ.setdefault(name, value)
