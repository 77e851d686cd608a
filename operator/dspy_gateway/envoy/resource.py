"""What every resource of Envoy is made of: type prefix, limits that several share, and how HTTP is spoken upstream."""

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
