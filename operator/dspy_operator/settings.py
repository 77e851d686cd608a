"""The operator's configuration: DSPY_OPERATOR_* variables, set by its manifests."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


def read_secret(file: str) -> str:
    """What a file of a mounted Secret holds. Read anew each time, for it changes. Raises OSError."""
    return Path(file).read_text().strip()


class RegistrySettings(BaseModel):
    """An MLflow registry that programs may name."""

    url: str
    """Where the operator and the runtime pods reach it."""
    token_file: str | None = None
    """A file with a bearer token for the operator's own requests."""
    basic_auth_file: str | None = None
    """A file with `user:password` for the operator's own requests."""
    write_back_namespaces: list[str] = []
    """The namespaces whose rollouts may have aliases and tags written; `*`: all. They are written with the operator's
    own credentials, and programs of other namespaces may follow them."""


class PrometheusSettings(BaseModel):
    """A Prometheus, or whatever has its HTTP API, that rollouts may query."""

    url: str
    """Where the operator reaches it; `/api/v1/query` is added."""
    token_file: str = ""
    """A file with a bearer token."""
    namespaces: list[str]
    """The namespaces whose rollouts may query it, and so may learn any number in it; `*`: all."""


class ReceiverSettings(BaseModel):
    """Somebody who is told of transitions. Exactly one of `url` and `url_file` is given."""

    url: str = ""
    url_file: str = ""
    """A file with the url, where that is a secret, as Slack's is."""
    format: Literal["JSON", "Slack", "CloudEvents"] = "JSON"
    token_file: str = ""
    """A file with a bearer token."""
    reasons: list[str] = []
    """The reasons that are told, unless a rollout names others."""
    every_program: bool = False
    """Whether it hears of every program, or of those whose rollout names it."""

    @model_validator(mode="after")
    def _has_one_address(self) -> ReceiverSettings:
        if bool(self.url) == bool(self.url_file):
            raise ValueError("give either url or url_file")
        return self


class Settings(BaseSettings):
    """Settings of the operator."""

    model_config = SettingsConfigDict(env_prefix="DSPY_OPERATOR_")

    registries: dict[str, RegistrySettings] = Field(default_factory=dict)
    """Registries by the name that `spec.model.registry` uses, as JSON."""
    notifications: dict[str, ReceiverSettings] = Field(default_factory=dict)
    """Receivers of notifications by the name that rollouts use, as JSON."""
    prometheus: dict[str, PrometheusSettings] = Field(default_factory=dict)
    """Prometheus servers by the name that `analysis.streams[].prometheus.server` uses, as JSON."""
    registry_poll_seconds: float = 10.0
    """How often an alias is looked up."""
    runtime_image: str = "dspy-operator/runtime:0.1.0-py{python}"
    """The runtime's image; `{python}` stands for a minor such as 3.11."""
    runtime_pythons: list[str] = ["3.11", "3.12", "3.13"]
    """The Python minors for which there is a runtime image."""
    runtime_dspy: str = ">=3.4,<3.5"
    """The DSPy versions that the runtime images can load."""
    gateway_image: str = "dspy-operator/gateway:0.1.0"
    """The gateway's image."""
    gateway_replicas: int = 2
    """Gateway pods of each namespace."""
    pod_namespace: str = "dspy-system"
    """The operator's own namespace, where its key and its Lease live."""
    namespace: str | None = None
    """Watch this namespace only; None: all."""
    archives_budget_bytes: int = 256 << 20
    """How much of versions' files is kept in the cluster, as Secrets beside their ControllerRevisions."""
    resync_seconds: float = 600.0
    """How often every program is looked at even when nothing changed."""
    identity: str = Field(default_factory=lambda: f"{socket.gethostname()}-{secrets.token_hex(4)}")
    """Who this process is among the replicas that want to lead."""
    guard_workers: int = 32
    """Releases that the guard looks at at once."""
    workers: int = 16
    """Keys that are worked on at once."""
    port: int = 8080
    """The port of /healthz, /readyz and /metrics."""
    log_level: str = "INFO"
    """The lowest level that is logged."""
