"""Copies of requests: who gets them, and the listener within the pod through which they go, so that they are counted.

Envoy counts a copy nowhere by itself. So it is sent to a socket of the pod that only its Envoy can reach, with what a
client never says: the draw table under which it was made, and whose it is. The listener never changes.
"""

from __future__ import annotations

from collections.abc import Mapping

from dspy_contract.routes import LONGEST_TIMEOUT_SECONDS, Routes
from dspy_contract.stat_names import mirrored
from dspy_gateway.envoy.actions import ANY_MATCH, route_action, set_header
from dspy_gateway.envoy.clusters import endpoints, unlimited
from dspy_gateway.envoy.listeners import COUNTED_OPEN, MANAGER, bare_listener, counters, router
from dspy_gateway.envoy.resource import BUFFER_BYTES, TYPE, Resource

SOCKET_CLUSTER = "mirror"
TABLE_HEADER, CLUSTER_HEADER, TIMEOUT_HEADER = "x-dspy-table", "x-dspy-cluster", "grpc-timeout"
"""The last one is the one time-out that Envoy takes from a header and that a copy's sender leaves alone."""


ENDS_AFTER_MS = 950
"""How long after the program's time-out a copy ends: before Envoy drops it as if a client had left, and hardly before
the request itself ends, or an outage that hits both would look like the candidate's for a moment."""


def copies(routes: Routes, weights: Mapping[str, int], table: str) -> Resource:
    """The part of a route's action that copies requests, each with a draw of its own; empty where none are."""
    policies = [
        {
            "cluster": SOCKET_CLUSTER,
            "runtime_fraction": {
                "default_value": {"numerator": weights[mirrored(backend.revision)], "denominator": "TEN_THOUSAND"},
                "runtime_key": "dspy.unused",
            },
            "disable_shadow_host_suffix_append": True,
            "request_headers_mutations": [
                {"append": set_header(TABLE_HEADER, table)},
                {"append": set_header(CLUSTER_HEADER, mirrored(backend.revision))},
                {"append": set_header(TIMEOUT_HEADER, f"{1000 * routes.timeout_seconds + ENDS_AFTER_MS}m")},
            ],
        }
        for backend in routes.backends
        if weights.get(mirrored(backend.revision))
    ]
    return {"request_mirror_policies": policies} if policies else {}


def mirror_cluster(folder: str) -> Resource:
    """The socket, as somewhere to send copies to."""
    return {
        "name": SOCKET_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "circuit_breakers": unlimited(),
        "load_assignment": endpoints(SOCKET_CLUSTER, [{"pipe": {"path": _socket(folder)}}]),
    }


def mirror_listener(folder: str) -> Resource:
    """Takes copies, counts them under their draw table, and sends them on."""
    route = route_action(LONGEST_TIMEOUT_SECONDS) | {
        "cluster_header": CLUSTER_HEADER,
        "max_stream_duration": {"grpc_timeout_header_max": "0s"},
    }
    manager = {
        "@type": f"{TYPE}{MANAGER}",
        "stat_prefix": "mirror",
        "route_config": {
            "name": "mirror",
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": ANY_MATCH, "route": route}]}],
        },
        "http_filters": [router()],
        "access_log_options": COUNTED_OPEN,
        "access_log": counters(f"%REQ({TABLE_HEADER})%"),
    }
    return bare_listener("mirror", {"pipe": {"path": _socket(folder), "mode": 0o600}}, manager)


def _socket(folder: str) -> str:
    return f"{folder}/mirror.sock"
