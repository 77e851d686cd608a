"""What a rule returns: the ledger after it, and the events that it emits."""

from __future__ import annotations

from dataclasses import dataclass

from dspy_operator.domain.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Event:
    """What the operator tells people about one transition."""

    reason: str
    message: str
    warning: bool = False


Transition = tuple[Ledger, tuple[Event, ...]]
