"""What every resource of Envoy is made of: type prefix, limits that several share, how HTTP is spoken upstream, and how
long a request may take."""

from __future__ import annotations

from typing import Any

TYPE = "type.googleapis.com/"
STREAM_IDLE_SECONDS = 300
BUFFER_BYTES = 32 << 20
"""What is kept of a body, so that it can be sent again when its pod goes: above the largest that a runtime takes."""

Resource = dict[str, Any]


def http_options(protocol: Resource, common: Resource | None = None) -> Resource:
    """How a cluster's connections speak HTTP."""
    name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    options = {"@type": TYPE + name, "explicit_http_config": protocol}
    return {name: options | ({"common_http_protocol_options": common} if common else {})}


def route_action(timeout_seconds: int) -> Resource:
    """How long a request may take, and when it is sent again; not yet where it goes."""
    previous = f"{TYPE}envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    return {
        "timeout": f"{timeout_seconds + 1}s",
        "idle_timeout": f"{max(STREAM_IDLE_SECONDS, timeout_seconds + 1)}s",
        "retry_policy": {
            "retry_on": "connect-failure,refused-stream,reset-before-request",
            "num_retries": 3,
            "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
            "host_selection_retry_max_attempts": 20,
            "retry_host_predicate": [
                {"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {"@type": previous}}
            ],
        },
    }


def set_header(key: str, value: str) -> Resource:
    """A header of a request or an answer, instead of one that is there."""
    return {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
