"""How an answer ended, in the words that runtime, gateway and operator share. Pure."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum

OUTCOME_HEADER = "x-dspy-outcome"


class Outcome(StrEnum):
    """The end of one request."""

    OK = "ok"
    CLIENT_ERROR = "client_error"
    CANCELLED = "cancelled"
    OVERLOADED = "overloaded"
    PROGRAM_ERROR = "program_error"
    UPSTREAM_ERROR = "upstream_error"
    TIMEOUT = "timeout"
    CONNECTION_FAILURE = "connection_failure"


FAILURES = frozenset({Outcome.PROGRAM_ERROR, Outcome.UPSTREAM_ERROR, Outcome.TIMEOUT, Outcome.CONNECTION_FAILURE})
"""Outcomes that count against a revision. `overloaded` joins them only while stable is not overloaded itself."""

CLIENT_FLAGS = frozenset({"DC", "DR", "DPE"})
"""Envoy's flags of a client that left, reset its stream, or broke the protocol."""

TIMEOUT_FLAGS = frozenset({"UT", "SI", "DT"})
"""Envoy's flags of an answer that took too long."""


def outcome_of(header: str, code: int, flags: Collection[str]) -> Outcome:
    """The outcome of one answer: what the runtime said, else derived from Envoy's response code and flags."""
    if CLIENT_FLAGS & set(flags):
        return Outcome.CANCELLED
    if any(flag != "-" for flag in flags):
        return Outcome.TIMEOUT if TIMEOUT_FLAGS & set(flags) else Outcome.CONNECTION_FAILURE
    if header in set(Outcome):
        return Outcome(header)
    if code >= 500:
        return Outcome.PROGRAM_ERROR
    return Outcome.CLIENT_ERROR if code >= 400 else Outcome.OK
