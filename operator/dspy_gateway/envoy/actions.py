"""What routes have in common: which requests are predictions, where one goes, and how long it may take."""

from __future__ import annotations

from collections.abc import Iterable

from dspy_contract.outcomes import CACHE_HEADER, REVISION_HEADER
from dspy_contract.routes import Routes
from dspy_contract.stat_names import cluster_name
from dspy_gateway.envoy.resource import STREAM_IDLE_SECONDS, TYPE, Resource

PREDICT_MATCH: Resource = {
    "safe_regex": {"regex": "/(predict|predict/batch|invocations)"},
    "headers": [{"name": ":method", "string_match": {"exact": "POST"}}],
}
ANY_MATCH: Resource = {"prefix": "/"}


WEBSOCKETS: Resource = {"upgrade_configs": [{"upgrade_type": "websocket"}]}
"""Of routes of which nothing is counted: a connection is drawn once, whatever is asked over it."""


def weighted_cluster(
    revision: str, route: str, weight: int, headers: Iterable[Resource] = (), asked: Resource | None = None
) -> Resource:
    """Where a share of a route's requests goes, what their answers are told besides the revision, and what becomes of
    the requests' own headers (`asked`)."""
    return {
        "name": cluster_name(revision, route),
        "weight": weight,
        "response_headers_to_add": [set_header(REVISION_HEADER, revision), *headers],
        **(asked or {}),
    }


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


def add_header(key: str, value: str) -> Resource:
    """A header beside those of its name."""
    return {"header": {"key": key, "value": value}, "append_action": "APPEND_IF_EXISTS_OR_ADD"}


def cache_use(routes: Routes, judged: bool) -> Resource:
    """What of a weighted cluster says how its requests use a revision's cache: those that are judged go past it, and
    that is no client's to say."""
    if not routes.cached:
        return {}
    if judged and routes.release is not None:
        return {"request_headers_to_add": [set_header(CACHE_HEADER, "refresh")]}
    return {"request_headers_to_remove": [CACHE_HEADER]}
