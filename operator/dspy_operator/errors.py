"""Every error of our own that a pass may raise. The controller, and the guard for its own queue, turn what the API and
bugs raise into RetryError, which the queue's worker catches; an InvalidSpecError becomes a condition where it is met.

OperatorError
├── InvalidSpecError  what the user wrote cannot work: no retry, `Accepted=False`
└── RetryError        a pass failed for a reason that may pass: tried again with backoff
"""

from __future__ import annotations


class OperatorError(Exception):
    """The base of the tree."""


class InvalidSpecError(OperatorError):
    """The spec cannot be carried out. `reason` becomes the reason of the condition Accepted."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class RetryError(OperatorError):
    """The work failed and should be tried again after a while, `within_seconds` at the latest where that is given."""

    def __init__(self, message: str = "", within_seconds: float | None = None) -> None:
        super().__init__(message)
        self.within_seconds = within_seconds
