"""What Envoy is told, as plain dicts: the bootstrap, and one cluster, endpoint set, listener and route table per thing.

Pure. Envoy's defaults are set, not inherited: its route timeout of 15 s cuts LM calls, its circuit breakers reject the
1,025th request, and its upstream connections outlive uvicorn's keep-alive. Names of clusters hold no dots, since a dot
separates the parts of a statistic's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dspy_contract.outcomes import OUTCOME_HEADER
from dspy_contract.routes import TOTAL_WEIGHT, Routes

TYPE = "type.googleapis.com/"
MANY = 4_000_000_000
"""Practically unlimited, in Envoy's uint32."""

UPSTREAM_IDLE_SECONDS = 60
"""Below uvicorn's keep-alive of 75 s, so that Envoy closes an idle connection before the pod does."""

STREAM_IDLE_SECONDS = 300
PREDICT = "predict"
OTHER = "other"
ROUTE_NAMES = (PREDICT, OTHER)
STATS_PREFIX = "dspy"

_MONITORS = "envoy.extensions.resource_monitors"

Resource = dict[str, Any]


def cluster_name(revision: str, route: str) -> str:
    """The Envoy cluster of one revision for one route: predictions are counted apart from everything else."""
    return f"{revision}/{route}"


def bootstrap(folder: str, pod: str) -> Resource:
    """The static configuration: the admin socket, and the agent's socket from which everything else comes."""
    source = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    return {
        "node": {"id": pod, "cluster": "dspy-gateway"},
        "admin": {"address": {"pipe": {"path": f"{folder}/admin.sock", "mode": 0o600}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [
                    {
                        "timeout": "0s",
                        "envoy_grpc": {
                            "cluster_name": "agent",
                            "retry_policy": {"retry_back_off": {"base_interval": "0.05s", "max_interval": "0.5s"}},
                        },
                    }
                ],
            },
            "cds_config": source,
            "lds_config": source,
        },
        "static_resources": {
            "clusters": [
                {
                    "name": "agent",
                    "type": "STATIC",
                    "connect_timeout": "1s",
                    "typed_extension_protocol_options": _http_options({"http2_protocol_options": {}}),
                    "load_assignment": endpoints("agent", [{"pipe": {"path": f"{folder}/xds.sock"}}]),
                }
            ]
        },
        "overload_manager": {
            "refresh_interval": "1s",
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": f"{TYPE}{_MONITORS}.downstream_connections.v3.DownstreamConnectionsConfig",
                        "max_active_downstream_connections": 100_000,
                    },
                }
            ],
        },
        "layered_runtime": {"layers": [{"name": "static", "static_layer": {}}]},
    }


def socket_address(address: str, port: int) -> Resource:
    """An address of a pod."""
    return {"socket_address": {"address": address, "port_value": port}}


def endpoints(name: str, addresses: Sequence[Resource]) -> Resource:
    """The endpoints of a cluster; none is valid."""
    return {
        "cluster_name": name,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}} for address in addresses]}],
    }


def cluster(name: str) -> Resource:
    """A revision's cluster, with its endpoints from the agent. A missing answer of the agent is bounded, not awaited
    for ever."""
    unlimited = dict.fromkeys(
        ("max_connections", "max_pending_requests", "max_requests", "max_retries", "max_connection_pools"), MANY
    )
    return {
        "name": name,
        "type": "EDS",
        "connect_timeout": "1s",
        "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "15s"}},
        "lb_policy": "LEAST_REQUEST",
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "circuit_breakers": {"thresholds": [{"priority": "DEFAULT", **unlimited}, {"priority": "HIGH", **unlimited}]},
        "typed_extension_protocol_options": _http_options(
            {"http_protocol_options": {}}, {"idle_timeout": f"{UPSTREAM_IDLE_SECONDS}s"}
        ),
    }


def listener(uid: str, port: int, address: str = "0.0.0.0") -> Resource:
    """A program's listener. It never changes while the program lives: a change would cut open streams."""
    manager = {
        "@type": f"{TYPE}envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": uid,
        "rds": {
            "route_config_name": uid,
            "config_source": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"},
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": f"{TYPE}envoy.extensions.filters.http.router.v3.Router",
                    "suppress_envoy_headers": True,
                },
            }
        ],
        "access_log_options": {"flush_access_log_on_new_request": True},
        "access_log": [
            _counter(uid, "started", (), "DownstreamStart"),
            _counter(uid, "answers", _ANSWER_TAGS, "DownstreamEnd"),
        ],
        "stream_idle_timeout": f"{STREAM_IDLE_SECONDS}s",
        "request_timeout": "0s",
        "common_http_protocol_options": {"idle_timeout": "3600s"},
        "use_remote_address": True,
        "generate_request_id": True,
        "preserve_external_request_id": True,
        "server_header_transformation": "PASS_THROUGH",
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    return {"name": uid, "address": socket_address(address, port), "filter_chains": [{"filters": filters}]}


def route_table(routes: Routes, weights: Mapping[str, int], pod: str) -> Resource:
    """A program's routes with the weights to apply, which must sum to more than 0."""
    return _table(
        routes.uid,
        pod,
        routes.serial,
        [
            {
                "name": PREDICT,
                "match": {"path": "/predict", "headers": [{"name": ":method", "string_match": {"exact": "POST"}}]},
                "route": _action(routes, weights, PREDICT),
            },
            {"name": OTHER, "match": {"prefix": "/"}, "route": _action(routes, weights, OTHER)},
        ],
    )


def unavailable(uid: str, pod: str, words: str) -> Resource:
    """The routes of a listener whose program has none (yet, or any more): 503 with the reason."""
    answer = {"status": 503, "body": {"inline_string": words + "\n"}}
    return _table(uid, pod, 0, [{"name": "none", "match": {"prefix": "/"}, "direct_response": answer}])


def _table(uid: str, pod: str, serial: int, routes: list[Resource]) -> Resource:
    return {
        "name": uid,
        "response_headers_to_add": [_header("x-dspy-gateway", pod), _header("x-dspy-serial", str(serial))],
        "most_specific_header_mutations_wins": True,
        "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}],
    }


def _action(routes: Routes, weights: Mapping[str, int], route: str) -> Resource:
    previous = f"{TYPE}envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    total = sum(weights.values())
    clusters = [
        {
            "name": cluster_name(backend.revision, route),
            "weight": weights[backend.revision] if total else TOTAL_WEIGHT,
            "response_headers_to_add": [_header("x-dspy-revision", backend.revision)],
        }
        for backend in routes.backends
    ]
    return {
        "timeout": f"{routes.timeout_seconds + 1}s",
        "idle_timeout": f"{max(STREAM_IDLE_SECONDS, routes.timeout_seconds + 1)}s",
        "retry_policy": {
            "retry_on": "connect-failure,refused-stream,reset-before-request",
            "num_retries": 3,
            "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
            "host_selection_retry_max_attempts": 20,
            "retry_host_predicate": [
                {"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {"@type": previous}}
            ],
        },
        "weighted_clusters": {"clusters": clusters},
    }


def _header(key: str, value: str) -> Resource:
    return {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _http_options(protocol: Resource, common: Resource | None = None) -> Resource:
    name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    options = {"@type": TYPE + name, "explicit_http_config": protocol}
    return {name: options | ({"common_http_protocol_options": common} if common else {})}


_ANSWER_TAGS = (
    ("outcome", f"%RESPONSE_HEADER({OUTCOME_HEADER}):32%"),
    ("code", "%RESPONSE_CODE%"),
    ("flags", "%RESPONSE_FLAGS%"),
)


def _counter(uid: str, name: str, tags: Sequence[tuple[str, str]], log_type: str) -> Resource:
    """A counter of Envoy's stats access logger. `started` counts when a request arrives, `answers` when it has
    ended."""
    all_tags = [{"name": key, "value_format": value} for key, value in (("cluster", "%UPSTREAM_CLUSTER_RAW%"), *tags)]
    value = {
        "stats_scope": {"prefix": f"{STATS_PREFIX}.{uid}"},
        "counters": [{"stat": {"name": name, "tags": all_tags}, "value_fixed": 1}],
    }
    return {
        "name": "envoy.access_loggers.stats",
        "filter": {"log_type_filter": {"types": [log_type]}},
        # The generated class knows an older schema than Envoy; a TypedStruct reaches the real one.
        "typed_config": {
            "@type": f"{TYPE}xds.type.v3.TypedStruct",
            "type_url": f"{TYPE}envoy.extensions.access_loggers.stats.v3.Config",
            "value": value,
        },
    }
