"""Requests that belong together: of a user, whom a hash draws, or of a conversation, which its token leads.

Each is counted under USERS, and the access log tells the agent whose it was: `x-dspy-user` of the request, which no
client can set.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from dspy_contract.outcomes import USER_HEADER
from dspy_contract.routes import TOTAL_WEIGHT, Conversations, Routes, Users, ranges
from dspy_contract.stat_names import OTHER, USERS
from dspy_gateway.drawn import token_prefix
from dspy_gateway.envoy.actions import (
    ANY_MATCH,
    PREDICT_MATCH,
    WEBSOCKETS,
    add_header,
    cache_use,
    route_action,
    set_header,
    weighted_cluster,
)
from dspy_gateway.envoy.mirror import copies
from dspy_gateway.envoy.resource import Resource

BY_HEADER, BY_COOKIE, NEW = "header", "cookie", "new"
"""How the gateway came to know whose a request is. The cookies of a request are long, and are logged beside."""

_NEW_ID = "%REQ(X-REQUEST-ID)%"
_BEGUN = f"{NEW} {_NEW_ID}"
_VALUE = r"[^;\" ]+"


def together(routes: Routes, weights: Mapping[str, int], table: str) -> list[Resource]:
    """The routes of requests that belong to a user or a conversation; none where each is drawn for itself."""
    if routes.users:
        return _users(routes, routes.users, weights, table)
    return _conversations(routes, routes.conversations, weights, table) if routes.conversations else []


def _users(routes: Routes, users: Users, weights: Mapping[str, int], table: str) -> list[Resource]:
    """By a header, a cookie, or (the first request of a user) the request's id, which becomes the cookie. Envoy takes
    one hash of all three, so whoever has the cookie is where its first request was."""
    laid = ranges(dict(_weights(routes, weights)), routes.candidates, users)

    def drawn_by(
        hashed: Resource, told: str, known_by: list[Resource], answer: Sequence[Resource] = ()
    ) -> list[Resource]:
        return _routes(routes, laid, table, told, known_by, hashed=hashed, answer=lambda _: answer)

    found: list[Resource] = []
    if users.header:
        # Not empty; a regular expression would cost every request more.
        empty = {"string_match": {"exact": ""}, "treat_missing_header_as_empty": True}
        known = {"name": users.header, **empty, "invert_match": True}
        found += drawn_by({"header": {"header_name": users.header}}, f"{BY_HEADER} %REQ({users.header})%", [known])
    if users.cookie:
        found += drawn_by({"cookie": {"name": users.cookie}}, BY_COOKIE, [_has_cookie(users.cookie, _VALUE)])
        given = _cookie(users.cookie, _NEW_ID, users.cookie_seconds)
        found += drawn_by({"header": {"header_name": "x-request-id"}}, _BEGUN, [], [given])
    return found


def _conversations(routes: Routes, kept: Conversations, weights: Mapping[str, int], table: str) -> list[Resource]:
    """One whose revision has no weight now is drawn among the others and keeps its token: it comes back when the weight
    does. One whose revision drains or is gone begins anew."""
    known = {routes.backends[0].revision, *routes.candidates}
    all_weights = [each for each in _weights(routes, weights) if each[0] in known]
    live = [each for each in _weights(routes, weights) if each[1]]
    copied = copies(routes, weights, table)
    found: list[Resource] = []
    for told, names in _ways(kept):
        for revision, weight in all_weights:
            drawn = [(revision, TOTAL_WEIGHT)] if weight else live
            found += _routes(routes, drawn, table, told, [names(revision)], copied=copied)

    def given(revision: str) -> list[Resource]:
        token = f"{token_prefix(routes, revision, weights)}{_NEW_ID}"
        by_header = [set_header(kept.header, token)] if kept.header else []
        return [*by_header, *([_cookie(kept.cookie, token, kept.cookie_seconds)] if kept.cookie else [])]

    return [*found, *_routes(routes, live, table, _BEGUN, [], answer=given, copied=copied)]


def _weights(routes: Routes, weights: Mapping[str, int]) -> list[tuple[str, int]]:
    """Of the revisions, without the shares that are copied."""
    return [(backend.revision, weights.get(backend.revision, 0)) for backend in routes.backends]


def _ways(kept: Conversations) -> list[tuple[str, Callable[[str], Resource]]]:
    """How a conversation is known: what the log is told, and the condition that its token names a revision."""

    def by_header(revision: str) -> Resource:
        return {"name": kept.header, "string_match": {"prefix": f"{revision}."}}

    def by_cookie(revision: str) -> Resource:
        return _has_cookie(kept.cookie, re.escape(f"{revision}.") + _VALUE)

    header = [(f"{BY_HEADER} %REQ({kept.header})%", by_header)] if kept.header else []
    return [*header, *([(BY_COOKIE, by_cookie)] if kept.cookie else [])]


def _routes(
    routes: Routes,
    drawn: Sequence[tuple[str, int]],
    table: str,
    told: str,
    known_by: list[Resource],
    *,
    hashed: Resource | None = None,
    copied: Resource | None = None,
    answer: Callable[[str], Sequence[Resource]] = lambda _: (),
) -> list[Resource]:
    """The route of predictions and that of all else. `hashed`: what decides instead of chance; `copied`: who gets
    copies of predictions; `answer`: the headers of a revision's answers."""
    found: list[Resource] = []
    for route, match in ((USERS, PREDICT_MATCH), (OTHER, ANY_MATCH)):
        asked = cache_use(routes, judged=route == USERS)
        clusters = [weighted_cluster(revision, route, width, answer(revision), asked) for revision, width in drawn]
        upgraded = WEBSOCKETS if route == OTHER else {}
        action = route_action(routes.timeout_seconds) | upgraded | {"weighted_clusters": {"clusters": clusters}}
        if hashed:
            action["hash_policy"] = [hashed]
            action["weighted_clusters"]["use_hash_policy"] = True
        found.append(
            {
                "name": table if route == USERS else OTHER,
                "match": {**match, "headers": [*match.get("headers", ()), *known_by]},
                "route": action | ((copied or {}) if route == USERS else {}),
                "request_headers_to_add": [set_header(USER_HEADER, told)] if route == USERS else [],
            }
        )
    return found


def _has_cookie(name: str, value: str) -> Resource:
    """The condition that a request has a cookie whose value is like this regular expression."""
    cookie = rf"(.*;)? *{re.escape(name)}=\"?{value}.*"
    return {"name": "cookie", "string_match": {"safe_regex": {"regex": cookie}}}


def _cookie(name: str, value: str, seconds: int) -> Resource:
    """A cookie of an answer, beside those that the program sets."""
    return add_header("set-cookie", f"{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax")
