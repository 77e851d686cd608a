"""The names of Envoy's statistics: what the gateway's access loggers write and the agent reads. Pure.

`dspy.<kind>.table.<uid>@<incarnation>-<number>.cluster.<revision>/<route>[.<tag>.<value>]...`. Dots separate the parts,
so no value holds one. The route's name carries the draw table, so a request is counted under the table that drew it,
also when another has taken over since; the program's uid stands in it too, so that every listener's loggers are equal.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dspy_contract.outcomes import FLAG

PREFIX = "dspy"
PREDICT, OTHER, FORCED, USERS, MIRROR, CACHED = "predict", "other", "forced", "users", "mirror", "cached"
STARTED, ANSWERS, OLDER, ENDED = "started", "answers", "older", "ended"
TOKENS, COST, PRICED = "tokens", "cost", "priced"
SUMS = (TOKENS, COST, PRICED)
"""Over answers, beside what counts them."""

_NAME = re.compile(
    rf"^{PREFIX}\.(?P<kind>[a-z]+)\.table\.(?P<uid>[^.@]+)@(?P<incarnation>[^.-]+)-(?P<number>\d+)"
    rf"\.cluster\.(?P<revision>[^./]+)/(?P<route>{PREDICT}|{FORCED}|{USERS}|{MIRROR}|{CACHED})(?:\.(?P<tags>.+))?$"
)
_ANSWER = re.compile(
    r"^outcome\.(?P<outcome>.*)\.code\.(?P<code>\d+)\.flags\.(?P<flags>[A-Za-z0-9,_-]+)\.trailer\.(?P<trailer>.*)"
    r"\.said\.(?P<said>.*)\.after\.(?P<after>.*)$"
)
_ROUTE = re.compile(r"^(?P<uid>[^.@]+)@(?P<incarnation>[^.-]+)-(?P<number>\d+)$")
_FLAG = re.compile(rf"(?<![^,])(?:{FLAG})(?![^,])")


@dataclass(frozen=True, slots=True)
class Name:
    """The parts of a statistic's name. `edge` is an index of the grid; the others describe an answer."""

    kind: str
    uid: str
    incarnation: str
    number: int
    revision: str
    edge: int = 0
    outcome: str = ""
    code: int = 0
    flags: tuple[str, ...] = ()
    trailer: str = ""
    """The outcome of an answer whose head did not know it yet."""
    said: frozenset[str] = frozenset()
    """What the program said of the answer: its flags, by header or trailer."""


def cluster_name(revision: str, route: str) -> str:
    """The Envoy cluster of one revision for one route: predictions are counted apart from everything else, and those
    that were drawn each for itself apart from those that named their revision, whose user was drawn, or whose answer
    may have been given before, and from copies."""
    return f"{revision}/{route}"


def forced(revision: str) -> str:
    """The name under which the predictions that asked for a revision by its name are counted."""
    return cluster_name(revision, FORCED)


def of_users(revision: str) -> str:
    """The name under which the predictions of users who were drawn for a revision are counted."""
    return cluster_name(revision, USERS)


def mirrored(revision: str) -> str:
    """The name under which the copies of predictions that a revision gets are counted."""
    return cluster_name(revision, MIRROR)


def cached(revision: str) -> str:
    """The name under which the predictions are counted whose answers may have been given before."""
    return cluster_name(revision, CACHED)


def is_copy(name: str) -> bool:
    """Whether a name is one of `mirrored`."""
    return name.endswith(f"/{MIRROR}")


def route_name(uid: str, incarnation: str, number: int) -> str:
    """The name of the route by which a draw table draws."""
    return f"{uid}@{incarnation}-{number}"


def parse_route(name: str) -> tuple[str, str, int] | None:
    """The uid, the incarnation and the number in a draw table's name; None for any other route."""
    match = _ROUTE.match(name)
    return (match["uid"], match["incarnation"], int(match["number"])) if match else None


def users_revision(cluster: str) -> str | None:
    """The revision of the cluster that serves users who were drawn; None for any other cluster."""
    revision, _, route = cluster.rpartition("/")
    return revision if route == USERS else None


def flags_in(*texts: str) -> frozenset[str]:
    """The flags that a header and a trailer name; what is no flag is left out."""
    return frozenset(_FLAG.findall(",".join(texts)))


def parse(name: str) -> Name | None:
    """The parts of a statistic's name; None for any other statistic."""
    match = _NAME.match(name)
    if match is None:
        return None
    revision = match["revision"] if match["route"] == PREDICT else cluster_name(match["revision"], match["route"])
    parts = (match["kind"], match["uid"], match["incarnation"], int(match["number"]), revision)
    tags = match["tags"] or ""
    if match["kind"] in (STARTED, *SUMS):
        return Name(*parts)
    if match["kind"] in (OLDER, ENDED) and tags.startswith("edge."):
        return Name(*parts, edge=int(tags.removeprefix("edge.")))
    answer = _ANSWER.match(tags) if match["kind"] == ANSWERS else None
    if answer is None:
        return None
    return Name(
        *parts,
        outcome=answer["outcome"],
        code=int(answer["code"]),
        flags=tuple(answer["flags"].split(",")),
        trailer=answer["trailer"],
        said=flags_in(answer["said"], answer["after"]),
    )
