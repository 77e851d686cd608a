"""The ledger: all that a release must remember, kept in `DSPyProgram.status.release`, and the only truth about it.

Every decision is written here before it has an effect. Times are Unix seconds, weights basis points.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dspy_operator.domain.analysis.evidence import Evidence, RequestCounts
from dspy_operator.domain.steps import Step

LONGEST_HISTORY = 10
LONGEST_REFUSED = 20


@dataclass(frozen=True, slots=True)
class Paused:
    """Why a release waits for a person or for something to heal."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Release:
    """One passage of a candidate from weight 0 to stable or to refused. Steps are those of its beginning."""

    candidate: str
    started_at: float
    policy: str | None = None
    """The rollout that governs it; None: it switches when ready."""
    steps: tuple[Step, ...] = ()
    step: int = 0
    """The step that is being carried out; equal to len(steps) when all are done."""
    step_started_at: float = 0.0
    step_started_requests: int = 0
    step_started_crashes: int = 0
    weight_bp: int = 0
    """The candidate's desired weight, in basis points."""
    awaited_requests: int | None = None
    """How many candidate requests must be answered before it is promoted: those that had started when it was found fit.
    A request in flight is no good answer yet: a candidate that hangs has no failures either."""
    ready_once: bool = False
    """Whether the candidate has been ready; until then the progress deadline runs."""
    clock_stopped_at: float | None = None
    """Since when the step's clock stands still, because stable itself is unhealthy or the candidate is not ready."""
    paused: Paused | None = None
    evidence: Evidence = Evidence()


@dataclass(frozen=True, slots=True)
class Refused:
    """A revision that was rolled back or aborted; not tried again until it changes. `outcome` is as in `Ended`."""

    revision: str
    outcome: str
    reason: str
    message: str
    at: float
    step: str = ""
    stable: RequestCounts = RequestCounts()
    candidate: RequestCounts = RequestCounts()


@dataclass(frozen=True, slots=True)
class Draining:
    """A revision without weight that may still have requests in flight."""

    revision: str
    since: float


@dataclass(frozen=True, slots=True)
class Ended:
    """How a release ended: Promoted, RolledBack, Refused, Aborted or Cancelled."""

    revision: str
    outcome: str
    message: str
    at: float


@dataclass(frozen=True, slots=True)
class Ledger:
    """The whole ledger of a program. `serial` numbers the routes and only grows."""

    serial: int = 0
    stable: str | None = None
    stable_proven: bool = False
    """Whether stable has ever been ready. One that never was can be replaced without a release."""
    release: Release | None = None
    refused: tuple[Refused, ...] = ()
    draining: tuple[Draining, ...] = ()
    history: tuple[Ended, ...] = ()
    request: str = ""
    """The request annotation that was handled last."""
    checkpointed_at: float = 0.0
    """When evidence was last written."""

    def refusal(self, revision: str) -> Refused | None:
        """The refusal of a revision, if it was refused."""
        return next((refused for refused in self.refused if refused.revision == revision), None)

    def ended(self, revision: str, outcome: str, message: str, now: float) -> Ledger:
        """The ledger with a release's end in its history."""
        return replace(self, history=(*self.history, Ended(revision, outcome, message, now))[-LONGEST_HISTORY:])

    def with_draining(self, revision: str, now: float) -> Ledger:
        """The ledger with a revision that loses its weight now."""
        others = tuple(draining for draining in self.draining if draining.revision != revision)
        return replace(self, draining=(*others, Draining(revision, now)))

    def without_draining(self, revision: str) -> Ledger:
        """The ledger with a revision that drains no more."""
        return replace(self, draining=tuple(draining for draining in self.draining if draining.revision != revision))

    def with_refused(self, refused: Refused) -> Ledger:
        """The ledger with one more refused revision."""
        others = tuple(each for each in self.refused if each.revision != refused.revision)
        return replace(self, refused=(*others, refused)[-LONGEST_REFUSED:])
