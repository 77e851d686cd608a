"""Every error of our own that a pass may raise; the controller is the one place that catches them.

OperatorError
├── InvalidSpecError  what the user wrote cannot work: no retry, `Accepted=False`
├── NotYetError       something is still missing: wait, no error
└── TransientError    the world failed: try again with backoff
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
