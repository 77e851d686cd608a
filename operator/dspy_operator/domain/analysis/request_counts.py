"""Counts of requests: their sums, and in words that people read. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dspy_contract.outcomes import FAILURES, Outcome
from dspy_contract.state import Counts

WHOSE: Mapping[str, str] = {
    Outcome.PROGRAM_ERROR: "program",
    Outcome.UPSTREAM_ERROR: "provider",
    Outcome.TIMEOUT: "timeout",
    Outcome.CONNECTION_FAILURE: "connection",
}


@dataclass(frozen=True, slots=True)
class RequestCounts:
    """Requests of one revision in words that people read."""

    requests: int = 0
    failures: int = 0
    failures_by: Mapping[str, int] = field(default_factory=dict)
    """Whose they are: the program's, the provider's, a time-out's, a connection's."""
    client_errors: int = 0
    left: int = 0
    overloaded: int = 0
    lost: int = 0
    open: int = 0

    @property
    def error_percent(self) -> float:
        """Failures per request, in percent; 0 without requests."""
        return 100 * self.failures / self.requests if self.requests else 0.0


def request_counts(counts: Counts) -> RequestCounts:
    """Counts in words that people read."""
    return RequestCounts(
        requests=counts.started,
        failures=counts.ended_as(FAILURES),
        failures_by={
            whose: counts.outcomes[outcome] for outcome, whose in WHOSE.items() if counts.outcomes.get(outcome)
        },
        client_errors=counts.outcomes.get(Outcome.CLIENT_ERROR, 0),
        left=counts.outcomes.get(Outcome.CANCELLED, 0),
        overloaded=counts.outcomes.get(Outcome.OVERLOADED, 0),
        lost=counts.outcomes.get(Outcome.LOST, 0),
        open=counts.open,
    )


def add_counts(*several: Counts) -> Counts:
    """The sum of counts."""
    outcomes: dict[str, int] = {}
    older: dict[int, int] = {}
    flags: dict[str, int] = {}
    for counts in several:
        for outcome, count in counts.outcomes.items():
            outcomes[outcome] = outcomes.get(outcome, 0) + count
        for edge, count in counts.older.items():
            older[edge] = older.get(edge, 0) + count
        for flag, count in counts.flags.items():
            flags[flag] = flags.get(flag, 0) + count
    spent = (sum(sums) for sums in zip(*((each.tokens, each.cost, each.priced) for each in several), strict=True))
    return Counts(sum(counts.started for counts in several), outcomes, older, flags, *spent)
