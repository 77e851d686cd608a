"""What Envoy is told, as plain dicts: the bootstrap, and one cluster, endpoint set, listener and route table per thing.

Pure. Envoy's defaults are set, not inherited: its route timeout of 15 s cuts LM calls, its circuit breakers reject the
1,025th request, and its upstream connections outlive uvicorn's keep-alive. Names of clusters hold no dots, since a dot
separates the parts of a statistic's name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dspy_contract.outcomes import OUTCOME_HEADER
from dspy_contract.routes import PROBE_PORT, TOTAL_WEIGHT, Routes
from dspy_contract.stat_names import ANSWERS, ENDED, OLDER, OTHER, PREDICT, PREFIX, STARTED, cluster_name
from dspy_contract.state import EDGES_SECONDS, FAST_EDGES_SECONDS

TYPE = "type.googleapis.com/"
MANY = 4_000_000_000
"""Practically unlimited, in Envoy's uint32."""

UPSTREAM_IDLE_SECONDS = 60
"""Below uvicorn's keep-alive of 75 s, so that Envoy closes an idle connection before the pod does."""

STREAM_IDLE_SECONDS = 300
BUFFER_BYTES = 32 << 20
"""What is kept of a body, so that it can be sent again when its pod goes: above the largest that a runtime takes."""

FLUSH_SECONDS = 0.25
"""How often the age of an open request is looked at."""

WINDOW_SECONDS = 0.245
"""Below the flush interval, so that a request is counted at most once at each edge of the grid."""

EVICTION_SECONDS = 60
LONGEST_OUTCOME = 14
"""Characters of the runtime's header that reach a statistic: the longest word that means something."""

_MONITORS = "envoy.extensions.resource_monitors"

Resource = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """What a pod's Envoy is told before anything else. Without a memory limit nothing is shed."""

    folder: str
    pod: str
    address: str = "::"
    probe_port: int = PROBE_PORT
    memory_limit_bytes: int | None = None


def bootstrap(about: Bootstrap) -> Resource:
    """The static configuration: the admin socket, the agent's socket from which everything else comes, and the probe.

    Envoy keeps only the statistics that are read, and drops those that nothing uses any more.
    """
    folder, pod = about.folder, about.pod
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
        "stats_config": {
            "stats_matcher": {
                "inclusion_list": {
                    "patterns": [
                        {"prefix": f"{PREFIX}."},
                        {"exact": "server.uptime"},
                        {"exact": "http.gateway.downstream_rq_active"},
                    ]
                }
            }
        },
        "stats_flush_interval": "5s",
        "stats_eviction_interval": f"{EVICTION_SECONDS}s",
        "static_resources": {
            "listeners": [_probe(about)],
            "clusters": [
                {
                    "name": "agent",
                    "type": "STATIC",
                    "connect_timeout": "1s",
                    "typed_extension_protocol_options": _http_options({"http2_protocol_options": {}}),
                    "load_assignment": endpoints("agent", [{"pipe": {"path": f"{folder}/xds.sock"}}]),
                }
            ],
        },
        "overload_manager": _overload(about.memory_limit_bytes),
        "layered_runtime": {
            "layers": [{"name": "static", "static_layer": {"re2.max_program_size.error_level": 1_000}}]
        },
    }


def _probe(about: Bootstrap) -> Resource:
    """Readiness from Envoy itself: 503 once it has been told to fail its health check, whatever the agent does."""
    check = {
        "@type": f"{TYPE}envoy.extensions.filters.http.health_check.v3.HealthCheck",
        "pass_through_mode": False,
        "headers": [{"name": ":path", "string_match": {"exact": "/readyz"}}],
    }
    manager = {
        "@type": f"{TYPE}{_MANAGER}",
        "stat_prefix": "probe",
        "route_config": {"name": "probe", "virtual_hosts": []},
        "http_filters": [{"name": "envoy.filters.http.health_check", "typed_config": check}, _router()],
    }
    return _listener("probe", about.address, about.probe_port, manager)


def _overload(memory_limit_bytes: int | None) -> Resource:
    """At 80 % of the memory the largest streams are reset, at 90 % no new requests are taken."""
    connections = {
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": {
            "@type": f"{TYPE}{_MONITORS}.downstream_connections.v3.DownstreamConnectionsConfig",
            "max_active_downstream_connections": 100_000,
        },
    }
    if memory_limit_bytes is None:
        return {"refresh_interval": "1s", "resource_monitors": [connections]}
    heap = {
        "name": "envoy.resource_monitors.fixed_heap",
        "typed_config": {
            "@type": f"{TYPE}{_MONITORS}.fixed_heap.v3.FixedHeapConfig",
            "max_heap_size_bytes": memory_limit_bytes,
        },
    }
    name = "envoy.resource_monitors.fixed_heap"
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [connections, heap],
        "buffer_factory_config": {"minimum_account_to_track_power_of_two": 20},
        "actions": [
            {
                "name": "envoy.overload_actions.reset_high_memory_stream",
                "triggers": [
                    {"name": name, "scaled": {"scaling_threshold": 0.8, "saturation_threshold": 0.95}},
                ],
            },
            {
                "name": "envoy.overload_actions.stop_accepting_requests",
                "triggers": [{"name": name, "threshold": {"value": 0.9}}],
            },
        ],
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
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "15s"}},
        "lb_policy": "LEAST_REQUEST",
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "circuit_breakers": {"thresholds": [{"priority": "DEFAULT", **unlimited}, {"priority": "HIGH", **unlimited}]},
        "typed_extension_protocol_options": _http_options(
            {"http_protocol_options": {}}, {"idle_timeout": f"{UPSTREAM_IDLE_SECONDS}s"}
        ),
    }


def listener(uid: str, port: int, address: str = "::") -> Resource:
    """A program's listener. It never changes while the program lives: a change would cut open streams."""
    rds = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    manager = {
        "@type": f"{TYPE}{_MANAGER}",
        "stat_prefix": "gateway",
        "rds": {"route_config_name": uid, "config_source": rds},
        "http_filters": [_router()],
        "access_log_options": {
            "flush_access_log_on_new_request": True,
            "access_log_flush_interval": f"{FLUSH_SECONDS}s",
        },
        "access_log": _counters(),
        "stream_idle_timeout": f"{STREAM_IDLE_SECONDS}s",
        "request_headers_timeout": "10s",
        "request_timeout": "60s",
        "common_http_protocol_options": {"idle_timeout": "3600s"},
        "http_protocol_options": {"accept_http_10": True, "default_host_for_http_10": "localhost"},
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "use_remote_address": True,
        "generate_request_id": True,
        "server_header_transformation": "PASS_THROUGH",
    }
    return _listener(uid, address, port, manager)


_MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


def _listener(name: str, address: str, port: int, manager: Resource) -> Resource:
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    at: Resource = {"address": address, "port_value": port}
    return {
        "name": name,
        "address": {"socket_address": at | ({"ipv4_compat": True} if address == "::" else {})},
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "filter_chains": [{"filters": filters}],
    }


def _router() -> Resource:
    router = {"@type": f"{TYPE}envoy.extensions.filters.http.router.v3.Router", "suppress_envoy_headers": True}
    return {"name": "envoy.filters.http.router", "typed_config": router}


def route_table(routes: Routes, weights: Mapping[str, int], table: str, pod: str, namespace: str) -> Resource:
    """A program's routes with the weights to apply, which must sum to more than 0.

    Predictions are drawn under the name of their draw table; other requests are routed alike and not counted.
    """
    return _table(
        routes.uid,
        pod,
        routes.serial,
        [
            _misdirected(routes.program, namespace),
            {
                "name": table,
                "match": {"path": "/predict", "headers": [{"name": ":method", "string_match": {"exact": "POST"}}]},
                "route": _action(routes, weights, PREDICT),
            },
            {"name": OTHER, "match": {"prefix": "/"}, "route": _action(routes, weights, OTHER)},
        ],
    )


def _misdirected(program: str, namespace: str) -> Resource:
    """421 for a request by the cluster's name of another program: a stale Service must never reach this one.

    In-cluster names are one label, a label and the namespace, or two labels before `svc`, and whatever a mesh puts
    before them. Addresses, localhost and foreign domains pass. Two labels of which the second is the namespace's name
    are refused, though they may be a domain.
    """
    space, own, label, more = re.escape(namespace), re.escape(program), "[a-z0-9-]+", r"([a-z0-9_.-]+\.)?"
    service = r"svc(\.[a-z0-9.-]+)?"
    inside = rf"(?i)({label}|{label}\.{space}|{more}{label}\.{label}\.{service})\.?(:[0-9]*)?"
    address = r"[0-9]+(\.[0-9]+){3}"
    allowed = rf"(?i)({own}|{own}\.{space}|{more}{own}\.{space}\.{service}|localhost|{address})\.?(:[0-9]*)?"
    headers = [
        {"name": ":authority", "string_match": {"safe_regex": {"regex": inside}}},
        {"name": ":authority", "string_match": {"safe_regex": {"regex": allowed}}, "invert_match": True},
    ]
    answer = {"status": 421, "body": {"inline_string": f"This is the program {program}, not the one that was named\n"}}
    return {"name": "misdirected", "match": {"prefix": "/", "headers": headers}, "direct_response": answer}


def unavailable(uid: str, pod: str, message: str) -> Resource:
    """The routes of a listener whose program has none (yet, or any more): 503 with the reason."""
    answer = {"status": 503, "body": {"inline_string": message + "\n"}}
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
    ("outcome", f"%RESPONSE_HEADER({OUTCOME_HEADER}):{LONGEST_OUTCOME}%"),
    ("code", "%RESPONSE_CODE%"),
    ("flags", "%RESPONSE_FLAGS%"),
)


def _counters() -> list[Resource]:
    """The access loggers of a listener, which count: starts, answers, and requests that become as old as each edge.

    Below the first slow edge only answers tell their age, so those are counted when they end.
    """
    first_slow = EDGES_SECONDS[len(FAST_EDGES_SECONDS)]
    loggers = [
        _counter(STARTED, (), _log_type("DownstreamStart")),
        _counter(ANSWERS, _ANSWER_TAGS, _log_type("DownstreamEnd")),
    ]
    for edge, seconds in enumerate(EDGES_SECONDS):
        fast = edge < len(FAST_EDGES_SECONDS)
        end = first_slow if fast else seconds + WINDOW_SECONDS
        kind, log_type = (ENDED, "DownstreamEnd") if fast else (OLDER, "DownstreamPeriodic")
        window = [_log_type(log_type), _duration("GE", seconds), _duration("LE", end - 0.001)]
        loggers.append(_counter(kind, (("edge", str(edge)),), {"and_filter": {"filters": window}}))
    return loggers


def _log_type(name: str) -> Resource:
    return {"log_type_filter": {"types": [name]}}


def _duration(operator: str, seconds: float) -> Resource:
    value = {"default_value": round(seconds * 1000), "runtime_key": "dspy.unused"}
    return {"duration_filter": {"comparison": {"op": operator, "value": value}}}


def _counter(name: str, tags: Sequence[tuple[str, str]], condition: Resource) -> Resource:
    """A counter of Envoy's stats access logger, tagged by draw table and revision."""
    all_tags = (("table", "%ROUTE_NAME%"), ("cluster", "%UPSTREAM_CLUSTER_RAW%"), *tags)
    value = {
        "stats_scope": {"prefix": PREFIX, "enable_eviction": True},
        "counters": [
            {
                "stat": {"name": name, "tags": [{"name": key, "value_format": each} for key, each in all_tags]},
                "value_fixed": 1,
            }
        ],
    }
    return {
        "name": "envoy.access_loggers.stats",
        "filter": condition,
        # The generated class knows an older schema than Envoy; a TypedStruct reaches the real one.
        "typed_config": {
            "@type": f"{TYPE}xds.type.v3.TypedStruct",
            "type_url": f"{TYPE}envoy.extensions.access_loggers.stats.v3.Config",
            "value": value,
        },
    }
