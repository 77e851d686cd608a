"""What the gateway pod's environment says, with defaults that work in the pod which the operator makes."""

from __future__ import annotations

import socket
from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict

from dspy_contract.routes import PROBE_PORT, STATE_PORT


class Settings(BaseSettings):
    """Settings of the agent, read from DSPY_GATEWAY_* variables."""

    model_config = SettingsConfigDict(env_prefix="DSPY_GATEWAY_")

    pod: str = "gateway"
    """The pod's name, shown in the response header x-dspy-gateway."""
    namespace: str = "default"
    """The namespace whose programs the gateway serves."""
    folder: Path = Path("/run/dspy-gateway")
    """Where the sockets, Envoy's bootstrap and the snapshot live; a volume that outlives the containers."""
    address: str = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"
    """The address on which listeners, probe and state page are bound; `::` takes IPv4 as well."""
    state_port: int = STATE_PORT
    """The port of the state page, the metrics and the agent's own probes."""
    probe_port: int = PROBE_PORT
    """The port on which Envoy itself tells its readiness."""
    token_file: Path | None = None
    """A file with the token that whoever asks for the state must send; None: anybody may ask."""
    memory_limit_bytes: int | None = None
    """What Envoy may use before it sheds load; None: it never does."""
    drain_notice_seconds: float = 2.0
    """How long the gateway goes on serving as usual after it began to fail its readiness, and for how long nobody may
    have asked before it ends."""
    drain_seconds: float = 600.0
    """How long a gateway that ends waits for requests at most."""
    log_level: str = "INFO"
    """The lowest level that is logged."""
