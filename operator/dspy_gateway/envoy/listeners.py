"""A program's listener, and the access loggers by which it counts: starts, answers, and ages of open requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dspy_contract.outcomes import (
    COST_HEADER,
    FLAGS_HEADER,
    MOST_FLAGS,
    OUTCOME_HEADER,
    SCORE_HEADER,
    TOKENS_HEADER,
    USER_HEADER,
)
from dspy_contract.stat_names import ANSWERS, COST, ENDED, OLDER, PREFIX, PRICED, STARTED, TOKENS
from dspy_contract.state import EDGES_SECONDS, FAST_EDGES_SECONDS
from dspy_gateway.envoy.resource import BUFFER_BYTES, STREAM_IDLE_SECONDS, TYPE, Resource

FLUSH_SECONDS = 0.25
"""How often the age of an open request is looked at."""

WINDOW_SECONDS = 0.245
"""Below the flush interval, so that a request is counted at most once at each edge of the grid."""

USERS_FLUSH_SECONDS = 0.1
"""How long an answer to a user may wait before the agent is told."""

COUNTED_OPEN: Resource = {
    "flush_access_log_on_new_request": True,
    "access_log_flush_interval": f"{FLUSH_SECONDS}s",
}
"""That requests are counted when they begin, and while they are open."""

ONE: Mapping[str, object] = {"value_fixed": 1}

LONGEST_OUTCOME = 14
"""Characters of the runtime's header that reach a statistic: the longest word that means something."""

LONGEST_FLAGS = 31 * MOST_FLAGS
"""Of the program's flags: as many as an answer may have, of the longest names."""

LONGEST_NUMBER = 12
"""Digits: a thousand dollars in billionths."""

MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


def listener(uid: str, port: int, address: str = "::") -> Resource:
    """A program's listener. It never changes while the program lives: a change would cut open streams."""
    rds = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    manager = {
        "@type": f"{TYPE}{MANAGER}",
        "stat_prefix": "gateway",
        "rds": {"route_config_name": uid, "config_source": rds},
        "http_filters": [router()],
        "access_log_options": COUNTED_OPEN,
        "access_log": [*counters("%ROUTE_NAME%"), _user_log()],
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
    return bare_listener(uid, bound(address, port), manager)


def bound(address: str, port: int) -> Resource:
    """Where a listener is that others reach; `::` takes IPv4 as well."""
    at: Resource = {"address": address, "port_value": port}
    return {"socket_address": at | ({"ipv4_compat": True} if address == "::" else {})}


def bare_listener(name: str, address: Resource, manager: Resource) -> Resource:
    """A listener with one connection manager."""
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    return {
        "name": name,
        "address": address,
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "filter_chains": [{"filters": filters}],
    }


def router() -> Resource:
    """The filter that ends every chain."""
    router = {"@type": f"{TYPE}envoy.extensions.filters.http.router.v3.Router", "suppress_envoy_headers": True}
    return {"name": "envoy.filters.http.router", "typed_config": router}


_ANSWER_TAGS = (
    ("outcome", f"%RESPONSE_HEADER({OUTCOME_HEADER}):{LONGEST_OUTCOME}%"),
    ("code", "%RESPONSE_CODE%"),
    ("flags", "%RESPONSE_FLAGS%"),
    ("trailer", f"%TRAILER({OUTCOME_HEADER}):{LONGEST_OUTCOME}%"),
    ("said", f"%RESPONSE_HEADER({FLAGS_HEADER}):{LONGEST_FLAGS}%"),
    ("after", f"%TRAILER({FLAGS_HEADER}):{LONGEST_FLAGS}%"),
)


def counters(table: str) -> list[Resource]:
    """The access loggers of a listener, which count: starts, answers, and requests that become as old as each edge.

    Below the first slow edge only answers tell their age, so those are counted when they end. `table`: what tells the
    name of the draw table, in Envoy's words.
    """
    first_slow = EDGES_SECONDS[len(FAST_EDGES_SECONDS)]
    loggers = [
        _logger(_log_type("DownstreamStart"), _counted(table, STARTED)),
        _logger(_log_type("DownstreamEnd"), _counted(table, ANSWERS, _ANSWER_TAGS)),
        *_sums(table, TOKENS_HEADER, TOKENS),
        *_sums(table, COST_HEADER, COST, PRICED),
    ]
    for edge, seconds in enumerate(EDGES_SECONDS):
        fast = edge < len(FAST_EDGES_SECONDS)
        end = first_slow if fast else seconds + WINDOW_SECONDS
        kind, log_type = (ENDED, "DownstreamEnd") if fast else (OLDER, "DownstreamPeriodic")
        window = [_log_type(log_type), _duration("GE", seconds), _duration("LE", end - 0.001)]
        loggers.append(_logger({"and_filter": {"filters": window}}, _counted(table, kind, (("edge", str(edge)),))))
    return loggers


_LOGGED = (OUTCOME_HEADER, FLAGS_HEADER, TOKENS_HEADER, COST_HEADER, SCORE_HEADER)
"""What the agent is told of an answer, be it said by a header or a trailer."""


def _user_log() -> Resource:
    """Tells the agent of each answer to a user who was drawn: of nobody, unless a route says that users are."""
    config = "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig"
    drawn = {"header_filter": {"header": {"name": USER_HEADER, "present_match": True}}}
    return {
        "name": "envoy.access_loggers.http_grpc",
        "filter": {"and_filter": {"filters": [_log_type("DownstreamEnd"), drawn]}},
        "typed_config": {
            "@type": f"{TYPE}{config}",
            "common_config": {
                "log_name": "users",
                "transport_api_version": "V3",
                "grpc_service": {"envoy_grpc": {"cluster_name": "agent"}},
                "buffer_flush_interval": f"{USERS_FLUSH_SECONDS}s",
            },
            "additional_request_headers_to_log": [USER_HEADER, "cookie"],
            "additional_response_headers_to_log": list(_LOGGED),
            "additional_response_trailers_to_log": list(_LOGGED),
        },
    }


def _log_type(name: str) -> Resource:
    return {"log_type_filter": {"types": [name]}}


def _duration(operator: str, seconds: float) -> Resource:
    value = {"default_value": round(seconds * 1000), "runtime_key": "dspy.unused"}
    return {"duration_filter": {"comparison": {"op": operator, "value": value}}}


def _sums(table: str, header: str, name: str, number: str = "") -> list[Resource]:
    """The sum of what answers say in a header or trailer, and their `number`. Those that do not say a number are passed
    over: Envoy would log an error for each."""
    return [
        _logger(
            _says_number(header, where),
            _counted(table, name, (), {"value_format": f"%{command}({header})%"}),
            *([_counted(table, number)] if number else []),
        )
        for where, command in (("headers", "RESPONSE_HEADER"), ("trailers", "TRAILER"))
    ]


def _says_number(header: str, where: str) -> Resource:
    cel = "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter"
    says = f"'{header}' in response.{where} && response.{where}['{header}'].matches('^[0-9]{{1,{LONGEST_NUMBER}}}$')"
    expression = {
        "@type": f"{TYPE}xds.type.v3.TypedStruct",
        "type_url": f"{TYPE}{cel}",
        "value": {"expression": says},
    }
    told = {"extension_filter": {"name": "envoy.access_loggers.extension_filters.cel", "typed_config": expression}}
    return {"and_filter": {"filters": [_log_type("DownstreamEnd"), told]}}


def _counted(
    table: str, name: str, tags: Sequence[tuple[str, str]] = (), value: Mapping[str, object] = ONE
) -> Resource:
    """A counter, tagged by draw table and revision."""
    all_tags = (("table", table), ("cluster", "%UPSTREAM_CLUSTER_RAW%"), *tags)
    return {"stat": {"name": name, "tags": [{"name": key, "value_format": each} for key, each in all_tags]}, **value}


def _logger(condition: Resource, *counters: Resource) -> Resource:
    """Envoy's stats access logger."""
    config = {"stats_scope": {"prefix": PREFIX, "enable_eviction": True}, "counters": list(counters)}
    return {
        "name": "envoy.access_loggers.stats",
        "filter": condition,
        # The generated class knows an older schema than Envoy; a TypedStruct reaches the real one.
        "typed_config": {
            "@type": f"{TYPE}xds.type.v3.TypedStruct",
            "type_url": f"{TYPE}envoy.extensions.access_loggers.stats.v3.Config",
            "value": config,
        },
    }
