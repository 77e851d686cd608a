"""Clusters and their endpoints: two of each for a revision, since predictions are counted apart."""

from __future__ import annotations

from collections.abc import Sequence

from dspy_gateway.envoy.resource import BUFFER_BYTES, Resource, http_options

MANY = 4_000_000_000
"""Practically unlimited, in Envoy's uint32."""

UPSTREAM_IDLE_SECONDS = 60
"""Below uvicorn's keep-alive of 75 s, so that Envoy closes an idle connection before the pod does."""


def socket_address(address: str, port: int) -> Resource:
    """An address of a pod."""
    return {"socket_address": {"address": address, "port_value": port}}


def endpoints(name: str, addresses: Sequence[Resource]) -> Resource:
    """The endpoints of a cluster; none is valid."""
    return {
        "cluster_name": name,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}} for address in addresses]}],
    }


def unlimited() -> Resource:
    """Circuit breakers that never open: who has room for a request is for the pods to say."""
    limits = dict.fromkeys(
        ("max_connections", "max_pending_requests", "max_requests", "max_retries", "max_connection_pools"), MANY
    )
    return {"thresholds": [{"priority": "DEFAULT", **limits}, {"priority": "HIGH", **limits}]}


def cluster(name: str) -> Resource:
    """A revision's cluster, with its endpoints from the agent. A missing answer of the agent is bounded, not awaited
    for ever."""
    return {
        "name": name,
        "type": "EDS",
        "connect_timeout": "1s",
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "circuit_breakers": unlimited(),
        "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "15s"}},
        "lb_policy": "LEAST_REQUEST",
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "typed_extension_protocol_options": http_options(
            {"http_protocol_options": {"enable_trailers": True}}, {"idle_timeout": f"{UPSTREAM_IDLE_SECONDS}s"}
        ),
    }
