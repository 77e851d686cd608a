"""The gateway's end of Envoy's access log: the answers to users who were drawn, as values."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from envoy.service.accesslog.v3 import als_pb2, als_pb2_grpc

from dspy_contract.outcomes import (
    COST_HEADER,
    FLAGS_HEADER,
    NANO_USD,
    OUTCOME_HEADER,
    SCORE_HEADER,
    TOKENS_HEADER,
    USER_HEADER,
    outcome_of,
)
from dspy_contract.routes import COST, SCORE, TOKENS
from dspy_contract.stat_names import flags_in, parse_route, users_revision

_FLAGS = {
    "downstream_connection_termination": "DC",
    "downstream_remote_reset": "DR",
    "downstream_protocol_error": "DPE",
    "upstream_request_timeout": "UT",
    "stream_idle_timeout": "SI",
    "duration_timeout": "DT",
}
"""The names by which `outcome_of` knows them; any other flag is one of a connection that failed."""


_COUNT, _SCORE = re.compile(r"\d{1,12}"), re.compile(r"0(\.\d{1,9})?|1(\.0{1,9})?")


@dataclass(frozen=True, slots=True)
class UserAnswer:
    """How a request of a user ended. `table` numbers the draw table of this `incarnation`; `told` and `cookies` say who
    the user is; `measures`: what the answer says of itself, by the names of MEASURES."""

    uid: str
    incarnation: str
    table: int
    revision: str
    told: str
    cookies: str
    outcome: str
    flags: frozenset[str]
    seconds: float
    measures: Mapping[str, float] = field(default_factory=dict)


class AccessLogServer(als_pb2_grpc.AccessLogServiceServicer):  # type: ignore[misc]
    """Hears Envoy's access log and passes it on."""

    def __init__(self, take: Callable[[UserAnswer], None]) -> None:
        self._take = take

    async def StreamAccessLogs(self, requests: AsyncIterator[Any], context: Any) -> Any:  # noqa: N802 gRPC's name
        """One stream of one Envoy worker."""
        async for request in requests:
            for entry in request.http_logs.log_entry:
                answer = read_entry(entry)
                if answer is not None:
                    self._take(answer)
        return als_pb2.StreamAccessLogsResponse()


def read_entry(entry: Any) -> UserAnswer | None:
    """One entry of the log; None for one of a request that was drawn for itself."""
    common, request, response = entry.common_properties, entry.request, entry.response
    route = parse_route(common.route_name)
    revision = users_revision(common.upstream_cluster)
    if route is None or revision is None:
        return None
    headers, trailers = response.response_headers, response.response_trailers
    outcome = outcome_of(
        headers.get(OUTCOME_HEADER, ""),
        response.response_code.value,
        [_FLAGS.get(field.name, field.name) for field, _ in common.response_flags.ListFields()],
        trailers.get(OUTCOME_HEADER, ""),
    )
    return UserAnswer(
        *route,
        revision=revision,
        told=request.request_headers.get(USER_HEADER, ""),
        cookies=request.request_headers.get("cookie", ""),
        outcome=str(outcome),
        flags=flags_in(headers.get(FLAGS_HEADER, ""), trailers.get(FLAGS_HEADER, "")),
        seconds=common.duration.seconds + common.duration.nanos / 1e9,
        measures=_measures({**headers, **trailers}),
    )


def _measures(said: Mapping[str, str]) -> dict[str, float]:
    """By name, what an answer took, cost and was worth. One that tells no tokens took none."""
    tokens, cost, score = (said.get(header, "") for header in (TOKENS_HEADER, COST_HEADER, SCORE_HEADER))
    measures = {TOKENS: float(tokens) if _COUNT.fullmatch(tokens) else 0.0}
    if _COUNT.fullmatch(cost):
        measures[COST] = int(cost) / NANO_USD
    if _SCORE.fullmatch(score):
        measures[SCORE] = float(score)
    return measures
