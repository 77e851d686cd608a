"""What one gateway pod tells the operator: the serial of each program that its Envoy confirmed, and what it counted.
Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class RevisionCounts:
    """What a gateway pod counted for one revision's weighted predictions since it first saw it. Only grows."""

    started: int = 0
    outcomes: Mapping[str, int] = field(default_factory=dict)

    @property
    def active(self) -> int:
        """Requests that started and have not been answered."""
        return max(self.started - sum(self.outcomes.values()), 0)


@dataclass(frozen=True, slots=True)
class ProgramState:
    """What one gateway pod says of one program: the serial that its Envoy confirmed, who answers, and its counts."""

    serial: int
    listening: bool
    effective: Mapping[str, int] = field(default_factory=dict)
    revisions: Mapping[str, RevisionCounts] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GatewayState:
    """The answer of one agent. `since` (Unix seconds) is when its counters began.

    `token` changes with every bad answer and every confirmation; a poll that names it waits for the next change.
    """

    pod: str
    since: float
    token: str
    programs: Mapping[str, ProgramState]


def load_state(text: str | bytes) -> GatewayState:
    """Reads `dump(GatewayState)`. Raises ValueError, KeyError or TypeError for anything else."""
    content = json.loads(text)
    return GatewayState(
        content["pod"],
        content["since"],
        content["token"],
        {uid: _program(state) for uid, state in content["programs"].items()},
    )


def _program(content: dict[str, Any]) -> ProgramState:
    revisions = {revision: RevisionCounts(**counts) for revision, counts in content["revisions"].items()}
    return ProgramState(**{**content, "revisions": revisions})
