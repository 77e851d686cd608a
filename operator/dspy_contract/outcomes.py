"""How an answer ended, in the words that runtime, gateway and operator share. Pure."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from http import HTTPStatus

OUTCOME_HEADER = "x-dspy-outcome"
"""A header; of an answer that is read as it comes, a trailer."""


FLAGS_HEADER = "x-dspy-flags"
"""What a program says of an answer besides its outcome: names with commas between them. Of an answer that is read as it
comes, a trailer."""

FLAG = r"[a-z0-9](?:[a-z0-9-]{0,28}[a-z0-9])?"
"""A flag's name. Nothing that a statistic's name gives a meaning."""

MOST_FLAGS = 16
"""Of one answer: the program's own, and what the runtime says besides."""

TOKENS_HEADER = "x-dspy-tokens"
"""How many tokens of language models an answer cost, where they told. Of an answer that is read as it comes, a
trailer."""

COST_HEADER = "x-dspy-cost-nanousd"
"""What an answer cost, in billionths of a US dollar; not there where nobody knows its price. Of one that is read as it
comes, a trailer."""

NANO_USD = 1_000_000_000
"""Of them in a US dollar."""

LM_HEADER = "x-dspy-lm"
"""The language models that an answer is of, with commas between them, where others stand in for a program's own. Of one
that is read as it comes, a trailer."""

FALLBACK_FLAG = "fallback"
"""The flag of an answer that is, in part, of a model that stood in for another, or of none at all."""

DEADLINE_HEADER = "x-dspy-deadline-ms"
"""Of a request: for how many milliseconds its client waits."""

PRIORITY_HEADER = "x-dspy-priority"
"""Of a request, where the spec allows it: high, normal or low."""

CACHE_HEADER = "x-dspy-cache"
"""Whether an answer was given before; of a request, `refresh` where it may not be."""

SCORE_HEADER = "x-dspy-score"
"""How good an answer is, from 0 to 1, by the program's own measure. Of one that is read as it comes, a trailer."""

USER_HEADER = "x-dspy-user"
"""How the gateway came to know the user of a request whose user is drawn."""

REVISION_HEADER = "x-dspy-revision"
"""The revision that answered, as the gateway knows it; of a request, the one that is to answer."""


class Outcome(StrEnum):
    """The end of one request."""

    OK = "ok"
    CLIENT_ERROR = "client_error"
    CANCELLED = "cancelled"
    """The client left before the answer."""
    OVERLOADED = "overloaded"
    PROGRAM_ERROR = "program_error"
    UPSTREAM_ERROR = "upstream_error"
    TIMEOUT = "timeout"
    CONNECTION_FAILURE = "connection_failure"
    """No connection to a pod, or one that was reset before any answer."""
    LOST = "lost"
    """An Envoy ended while the request was open: nobody knows."""


FAILURES = frozenset({Outcome.PROGRAM_ERROR, Outcome.UPSTREAM_ERROR, Outcome.TIMEOUT, Outcome.CONNECTION_FAILURE})
"""Outcomes that are the revision's failures, for tables that people read."""

_BY_RUNTIME = frozenset(
    {Outcome.OVERLOADED, Outcome.PROGRAM_ERROR, Outcome.UPSTREAM_ERROR, Outcome.TIMEOUT, Outcome.CANCELLED}
)
"""Bad outcomes that the runtime's header or trailer may give to an answer."""

CLIENT_FLAGS = frozenset({"DC", "DR", "DPE"})
"""Envoy's flags of a client that left, reset its stream, or broke the protocol."""

TIMEOUT_FLAGS = frozenset({"UT", "SI", "DT"})
"""Envoy's flags of an answer that took too long."""


def outcome_of(header: str, code: int, flags: Collection[str], trailer: str = "") -> Outcome:
    """The outcome of one answer: by Envoy's flags, then by the code, which the runtime's header may only refine, or
    make worse: an answer that nothing but the configuration gave. `trailer` says what went wrong after the head of a
    good answer was sent.

    The header alone is not believed: an image of the user's own could call a 500 ok.
    """
    if CLIENT_FLAGS & set(flags):
        return Outcome.CANCELLED
    if any(flag != "-" for flag in flags):
        return Outcome.TIMEOUT if TIMEOUT_FLAGS & set(flags) else Outcome.CONNECTION_FAILURE
    if code < 400:
        return next((Outcome(told) for told in (trailer, header) if told in _BY_RUNTIME), Outcome.OK)
    if header in _BY_RUNTIME:
        return Outcome(header)
    if code == HTTPStatus.GATEWAY_TIMEOUT:
        return Outcome.TIMEOUT
    return Outcome.PROGRAM_ERROR if code >= 500 else Outcome.CLIENT_ERROR
