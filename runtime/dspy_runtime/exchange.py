"""One request on its way through the stages: each fills in what the next one needs, and any may end it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import to_json

from dspy_runtime.admission import Place
from dspy_runtime.outcomes import Outcome

LONGEST_CLIENT_ID = 100


def _new_id() -> str:
    return secrets.token_hex(8)


@dataclass(slots=True)
class Exchange:
    """A request and its answer.

    `request_id` is ours, so that no two requests share it; `client_request_id` is what the client calls it.
    """

    client_request_id: str = ""
    request_id: str = field(default_factory=_new_id)
    started: float = field(default_factory=time.perf_counter)
    """In seconds of time.perf_counter."""
    ends_at: float = 0.0
    """The deadline, in seconds of the event loop's clock."""
    body: bytes = b""
    arguments: dict[str, Any] = field(default_factory=dict)
    place: Place | None = None
    """Given back at the exchange's end, unless a thread that outlives it has taken it over."""
    admitted: bool = False
    result: Any = None
    answer: bytes = b""
    outcome: Outcome | None = None

    def __post_init__(self) -> None:
        self.client_request_id = self.client_request_id[:LONGEST_CLIENT_ID]

    def end(self, outcome: Outcome, fields: list[dict[str, str]] | None = None) -> None:
        """Ends it with an answer that is none: outcome, code, message, and the fields that are wrong."""
        self.outcome = outcome
        error: dict[str, Any] = {
            "outcome": outcome.name,
            "code": outcome.code,
            "message": outcome.message,
            "requestId": self.request_id,
        }
        self.answer = to_json({"error": error | ({"fields": fields} if fields else {})})


Stage = Callable[[Exchange], Awaitable[None]]
"""One step of every request. It ends the exchange, or leaves it to the next; what it raises is the program's error."""
