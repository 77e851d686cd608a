"""How every request ends: one of eight outcomes, an HTTP status, and words that hold nothing of the provider's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import dspy
from dspy.utils import exceptions
from pydantic import ValidationError

from dspy_runtime.given_schema import UnfitInputError

MOST_FIELDS, LONGEST_NAME, LONGEST_PROBLEM = 20, 100, 300
"""Of an answer that refuses an input: clients choose the names, and get no more of them back."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a request: `name` goes to the header x-dspy-outcome and the metrics, `code` and `message` to the
    body."""

    name: str
    status: int
    code: str
    message: str
    retry_after_seconds: int | None = None


OK = Outcome("ok", 200, "ok", "")
TIMEOUT = Outcome("timeout", 504, "timeout", "The program did not answer within serving.timeoutSeconds")
CANCELLED = Outcome("cancelled", 499, "cancelled", "The client left")
OVERLOADED = Outcome("overloaded", 503, "overloaded", "All places are taken; try again", 1)
TOO_SLOW = Outcome("client_error", 408, "too_slow", "The request's body did not come in time")
TOO_LARGE = Outcome("client_error", 413, "too_large", "The request is larger than 16 MiB")

UNFIT = Outcome("program_error", 502, "output_schema", "The program's answer is not what serving.schema.output says")

_PARSE = Outcome(
    "program_error", 502, "parse", "The language model's answer has not the fields of the program's signature"
)
_CONTEXT = Outcome("program_error", 413, "context_window", "The prompt is longer than the language model takes")
_PROGRAM = Outcome("program_error", 500, "program_error", "The program raised an error")
_UNSUPPORTED = Outcome(
    "program_error", 500, "unsupported", "The program asks for what the language model's API cannot carry"
)
_UPSTREAM = "upstream_error"


def of_exception(error: BaseException) -> Outcome:
    """The outcome of a request whose program raised. Never contains the exception's own words."""
    match error:
        case dspy.ContextWindowExceededError():
            return _CONTEXT
        case dspy.AdapterParseError():
            return _PARSE
        case exceptions.LMBillingError():
            return Outcome(_UPSTREAM, 502, "billing", "The provider refuses the account")
        case dspy.LMRateLimitError():
            wait = getattr(error, "retry_after", None)
            return Outcome(_UPSTREAM, 429, "rate_limit", "The provider limits the rate", math.ceil(wait) if wait else 1)
        case exceptions.LMAuthError() | exceptions.LMNotConfiguredError():
            return Outcome(_UPSTREAM, 502, "auth", "The provider refuses the credentials")
        case dspy.LMTransportError():
            if _caused_by_timeout(error):
                return Outcome(_UPSTREAM, 504, "provider_timeout", "The provider did not answer in time")
            return Outcome(_UPSTREAM, 503, "provider_unreachable", "The provider cannot be reached")
        case exceptions.LMUnsupportedFeatureError():
            return _UNSUPPORTED
        case exceptions.LMInvalidRequestError() if getattr(error, "status", None) is None:
            return _UNSUPPORTED
        case dspy.LMError():
            return Outcome(_UPSTREAM, 502, "provider_error", "The provider answered with an error")
    return _PROGRAM


def of_invalid_input(error: Exception) -> tuple[Outcome, list[dict[str, str]]]:
    """The outcome of a request that the schema refuses, and what is wrong with which field, where that is known."""
    match error:
        case ValidationError():
            found = error.errors(include_url=False, include_input=False, include_context=False)
            problems = [(".".join(str(part) for part in each["loc"])[:LONGEST_NAME], each["msg"]) for each in found]
        case UnfitInputError():
            problems = [(field[:LONGEST_NAME], words[:LONGEST_PROBLEM]) for field, words in error.problems]
        case _:
            return Outcome("client_error", 422, "invalid_input", "The input is not what the program takes"), []
    fields = [{"field": field or "body", "problem": problem} for field, problem in problems[:MOST_FIELDS]]
    names = ", ".join(field["field"] for field in fields)
    return Outcome("client_error", 422, "invalid_input", f"The input is not what the program takes: {names}"), fields


def _caused_by_timeout(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, TimeoutError):
            return True
        error = error.__cause__ or error.__context__
    return False
