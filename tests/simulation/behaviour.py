"""How programs, their provider and their clients behave: how long an answer takes, and how it ends."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dspy_contract.outcomes import Outcome
from dspy_contract.routes import COST, SCORE, TOKENS

Answer = tuple[float, str]
"""After how many seconds, and how, a request ends: the outcome and, after a plus, a flag of the program's."""

FAILED_SECONDS = 0.05
CACHED_SECONDS = 0.001


@dataclass
class Version:
    """A version in the registry and how its program behaves. Rates and shares are of its requests."""

    number: int
    failure_rate: float = 0.0
    refusal_rate: float = 0.0
    """Valid requests that it refuses as the client's fault."""
    overloaded_rate: float = 0.0
    """Requests that its pods have no room for."""
    hang_share: float = 0.0
    """Requests that it never answers: the gateway gives up after the program's time-out."""
    blocked_rate: float = 0.0
    """Good answers that it flags as blocked."""
    tokens: int = 0
    """What an answer takes: half as much to half as much again."""
    cost: float = 0.0
    """What an answer costs, in US dollars, as unevenly; 0: nobody knows."""
    score: float | None = None
    """What its answers say of themselves, give or take a tenth."""
    latency_seconds: float = 0.2
    latency_sigma: float = 0.0
    """Of log-normal answers around the latency; 0: evenly between half of it and half as much again."""
    slow_share: float = 0.0
    slow_seconds: float = 4.0
    """Requests that take this long instead."""
    cached_share: float = 0.0
    """Requests whose answer it gives again, of those that do not go past its cache."""
    says: Mapping[str, Any] | None = field(default_factory=lambda: {"answer": "Paris", "score": 0.9})
    """What it answers at its preview; None: nothing, ever."""
    loads: bool = True
    start_seconds: float = 3.0

    def measures(self, chance: random.Random) -> dict[str, float]:
        """What one answer says of itself."""
        found: dict[str, float] = {}
        if self.tokens:
            found[TOKENS] = round(self.tokens * chance.uniform(0.5, 1.5))
        if self.cost:
            found[COST] = self.cost * chance.uniform(0.5, 1.5)
        if self.score is not None:
            found[SCORE] = min(max(self.score + chance.uniform(-0.1, 0.1), 0.0), 1.0)
        return found


@dataclass
class Surroundings:
    """What is the same for every version: the provider, and the patience of clients."""

    provider_failure_rate: float = 0.0
    patience_seconds: float | None = None
    """How long clients wait before they leave; for ever unless given."""
    timeout_seconds: float = 61.0
    """When the gateway gives up."""

    def answer(self, version: Version, chance: random.Random) -> Answer:
        """One request to a version that can answer."""
        seconds, outcome = self._undisturbed(version, chance)
        if self.patience_seconds is not None and seconds > self.patience_seconds:
            return self.patience_seconds, Outcome.CANCELLED
        return seconds, outcome

    def _undisturbed(self, version: Version, chance: random.Random) -> Answer:
        if chance.random() < version.hang_share:
            return self.timeout_seconds, Outcome.TIMEOUT
        if chance.random() < version.refusal_rate:
            return 0.0, Outcome.CLIENT_ERROR
        if chance.random() < version.overloaded_rate:
            return 0.0, Outcome.OVERLOADED
        if chance.random() < 1 - (1 - version.failure_rate) * (1 - self.provider_failure_rate):
            return FAILED_SECONDS, Outcome.PROGRAM_ERROR
        if version.blocked_rate and chance.random() < version.blocked_rate:
            return version.latency_seconds, f"{Outcome.OK}+blocked"
        if version.slow_share and chance.random() < version.slow_share:
            return version.slow_seconds, Outcome.OK
        if version.latency_sigma:
            seconds = version.latency_seconds * chance.lognormvariate(0.0, version.latency_sigma)
            return (seconds, Outcome.OK) if seconds < self.timeout_seconds else (self.timeout_seconds, Outcome.TIMEOUT)
        return version.latency_seconds * chance.uniform(0.5, 1.5), Outcome.OK
