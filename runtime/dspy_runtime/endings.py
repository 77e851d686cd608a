"""How a request ends: an outcome, an HTTP status, and words that hold nothing of the provider's or the program's."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import dspy
from dspy.utils import exceptions
from pydantic import ValidationError

from dspy_contract.outcomes import Outcome

MOST_FIELDS, MOST_COUNTED, LONGEST_NAME, LONGEST_PROBLEM = 20, 1_000, 100, 300
"""Of an answer that refuses an input: clients choose the names, and get no more of them back."""


MOST_VALUES = 250_000
"""Of a body, as its commas tell: each may be an error to be noted, and so more memory than it was bytes."""

LONGEST_RETRY_SECONDS = 3_600
"""Of a provider's Retry-After that is passed on."""


class UnfitInputError(Exception):
    """The input is not what `serving.schema.input` or the program takes, which pydantic cannot know; `problems` are
    pairs of field and words."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        super().__init__(f"{len(problems)} problems")
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a request: `outcome` goes to the header x-dspy-outcome and the metrics, `code` and `message` to the
    body."""

    outcome: Outcome
    status: int
    code: str
    message: str
    retry_after_seconds: int | None = None


OK = Ending(Outcome.OK, 200, "ok", "")
TIMEOUT = Ending(Outcome.TIMEOUT, 504, "timeout", "The program did not answer within serving.timeoutSeconds")
CANCELLED = Ending(Outcome.CANCELLED, 499, "cancelled", "The client left")
INVALID_INPUT = Ending(Outcome.CLIENT_ERROR, 422, "invalid_input", "The input is not what the program takes")
LATE = Ending(Outcome.CANCELLED, 504, "deadline", "The program did not answer within x-dspy-deadline-ms")
INVALID_DEADLINE = Ending(Outcome.CLIENT_ERROR, 400, "invalid_deadline", "x-dspy-deadline-ms takes milliseconds")
INVALID_PRIORITY = Ending(Outcome.CLIENT_ERROR, 400, "invalid_priority", "x-dspy-priority: high, normal or low")
OVERLOADED = Ending(Outcome.OVERLOADED, 503, "overloaded", "All places are taken; try again", 1)
TOO_SLOW = Ending(Outcome.CLIENT_ERROR, 408, "too_slow", "The request's body did not come in time")
TOO_MANY = Ending(Outcome.CLIENT_ERROR, 413, "too_many_values", f"The request has more than {MOST_VALUES:,} values")
TOO_LARGE = Ending(Outcome.CLIENT_ERROR, 413, "too_large", "The request is larger than 16 MiB")

BLOCKED_INPUT = Ending(Outcome.CLIENT_ERROR, 422, "blocked", "The input is refused by the guardrail")

_FAILED = Outcome.PROGRAM_ERROR
BLOCKED_OUTPUT = Ending(_FAILED, 502, "blocked", "The answer is held back by the guardrail")
UNFIT = Ending(_FAILED, 502, "output_schema", "The program's answer is not what serving.schema.output says")
_PARSE = Ending(_FAILED, 502, "parse", "The language model's answer has not the fields of the program's signature")
_CONTEXT = Ending(_FAILED, 413, "context_window", "The prompt is longer than the language model takes")
_PROGRAM = Ending(_FAILED, 500, "program_error", "The program raised an error")
_UNSUPPORTED = Ending(_FAILED, 500, "unsupported", "The program asks for what the language model's API cannot carry")
_UPSTREAM = Outcome.UPSTREAM_ERROR
_TOO_LATE = Ending(_UPSTREAM, 504, "provider_timeout", "The provider did not answer in time")


def over_budget(seconds: int) -> Ending:
    """The end of a request that comes so many seconds before there is money again."""
    words = "The day's budget for language models is spent; there is another at midnight UTC"
    return Ending(Outcome.OVERLOADED, 429, "budget", words, seconds)


def of_exception(error: BaseException) -> Ending:
    """The end of a request whose program raised. Never contains the exception's own words."""
    match error:
        case BaseExceptionGroup(exceptions=(only,)):  # of a TaskGroup whose one task failed
            return of_exception(only)
        case exceptions.LMTimeoutError():
            return _TOO_LATE
        case dspy.ContextWindowExceededError():
            return _CONTEXT
        case dspy.AdapterParseError():
            return _PARSE
        case exceptions.LMBillingError():
            return Ending(_UPSTREAM, 502, "billing", "The provider refuses the account")
        case dspy.LMRateLimitError():
            wait = min(getattr(error, "retry_after", None) or 1, LONGEST_RETRY_SECONDS)
            return Ending(_UPSTREAM, 429, "rate_limit", "The provider limits the rate", math.ceil(wait))
        case exceptions.LMAuthError() | exceptions.LMNotConfiguredError():
            return Ending(_UPSTREAM, 502, "auth", "The provider refuses the credentials")
        case dspy.LMTransportError():
            if caused_by_timeout(error):
                return _TOO_LATE
            return Ending(_UPSTREAM, 503, "provider_unreachable", "The provider cannot be reached")
        case exceptions.LMUnsupportedFeatureError() | exceptions.LMConfigurationError():
            return _UNSUPPORTED
        case exceptions.LMInvalidRequestError() if getattr(error, "status", None) is None:
            return _UNSUPPORTED
        case dspy.LMError():
            return Ending(_UPSTREAM, 502, "provider_error", "The provider answered with an error")
    return _PROGRAM


def of_invalid_input(error: ValidationError | UnfitInputError) -> tuple[Ending, list[dict[str, str]]]:
    """The end of a request that the schema refuses, and what is wrong with which field: a few of them, for clients
    choose how many there are."""
    if isinstance(error, UnfitInputError):
        problems = error.problems[:MOST_FIELDS]
    elif error.error_count() > MOST_COUNTED:
        problems = []
    else:
        found = error.errors(include_url=False, include_input=False, include_context=False)[:MOST_FIELDS]
        problems = [(".".join(str(part) for part in each["loc"]), each["msg"]) for each in found]
    fields = [
        {"field": field[:LONGEST_NAME] or "body", "problem": problem[:LONGEST_PROBLEM]} for field, problem in problems
    ]
    names = ", ".join(field["field"] for field in fields) or "too many fields to name"
    return replace(INVALID_INPUT, message=f"{INVALID_INPUT.message}: {names}"), fields


def caused_by_timeout(error: BaseException | None) -> bool:
    """True where somebody waited in vain."""
    while error is not None:
        if isinstance(error, TimeoutError):
            return True
        error = error.__cause__ or error.__context__
    return False
