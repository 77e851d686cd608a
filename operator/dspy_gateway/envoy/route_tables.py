"""A program's route table: who is refused, and which revision is drawn by which weight."""

from __future__ import annotations

import re
from collections.abc import Mapping

from dspy_contract.outcomes import REVISION_HEADER, USER_HEADER
from dspy_contract.routes import TOTAL_WEIGHT, Routes
from dspy_contract.stat_names import CACHED, FORCED, OTHER, PREDICT, cached
from dspy_gateway.envoy.actions import (
    ANY_MATCH,
    PREDICT_MATCH,
    WEBSOCKETS,
    cache_use,
    route_action,
    set_header,
    weighted_cluster,
)
from dspy_gateway.envoy.mirror import copies
from dspy_gateway.envoy.resource import Resource
from dspy_gateway.envoy.together import together


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
            *(_forced(routes, table) if routes.forced else ()),
            *(together(routes, weights, table) if any(weights.values()) else ()),
            {
                "name": table,
                "match": PREDICT_MATCH,
                "route": _drawn(routes, weights, PREDICT) | copies(routes, weights, table),
            },
            {"name": OTHER, "match": ANY_MATCH, "route": _drawn(routes, weights, OTHER)},
        ],
    )


def _forced(routes: Routes, table: str) -> list[Resource]:
    """The routes of requests that name their revision, or its role: no draw, and counted as table 0."""
    name = f"{table.rpartition('-')[0]}-0"
    roles = {routes.backends[0].revision: "stable", **dict.fromkeys(routes.candidates, "candidate")}
    found: list[Resource] = []
    for backend in routes.backends:
        names = [each for each in (backend.revision, roles.get(backend.revision)) if each]
        asked = {"name": REVISION_HEADER, "string_match": {"safe_regex": {"regex": "|".join(map(re.escape, names))}}}
        for route, match in ((FORCED, PREDICT_MATCH), (OTHER, ANY_MATCH)):
            found.append(
                {
                    "name": name if route == FORCED else OTHER,
                    "match": {**match, "headers": [*match.get("headers", ()), asked]},
                    "route": _drawn(routes, {backend.revision: TOTAL_WEIGHT}, route),
                }
            )
    message = f"No such revision of {routes.program} serves now\n"
    unknown = {"prefix": "/", "headers": [{"name": REVISION_HEADER, "present_match": True}]}
    answer = {"status": 404, "body": {"inline_string": message}}
    return [*found, {"name": "unknown", "match": unknown, "direct_response": answer}]


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
    return _table(uid, pod, 0, [{"name": "none", "match": ANY_MATCH, "direct_response": answer}])


def _table(uid: str, pod: str, serial: int, routes: list[Resource]) -> Resource:
    return {
        "name": uid,
        "response_headers_to_add": [set_header("x-dspy-gateway", pod), set_header("x-dspy-serial", str(serial))],
        "request_headers_to_remove": [USER_HEADER],
        "most_specific_header_mutations_wins": True,
        "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}],
    }


def _drawn(routes: Routes, weights: Mapping[str, int], route: str) -> Resource:
    """Draws each request for itself."""
    total = sum(weights.values())
    asked = cache_use(routes, judged=route == PREDICT)
    clusters: list[Resource] = []
    for backend in routes.backends:
        judged, kept = (weights.get(each, 0) for each in (backend.revision, cached(backend.revision)))
        if route == PREDICT and kept:
            clusters.append(weighted_cluster(backend.revision, CACHED, kept, asked=cache_use(routes, judged=False)))
        else:
            judged += kept
        clusters.append(weighted_cluster(backend.revision, route, judged if total else TOTAL_WEIGHT, asked=asked))
    upgraded = WEBSOCKETS if route == OTHER else {}
    return route_action(routes.timeout_seconds) | upgraded | {"weighted_clusters": {"clusters": clusters}}
