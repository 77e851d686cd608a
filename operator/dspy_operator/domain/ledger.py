"""The ledger: all that a release must remember, kept in `DSPyProgram.status.release`, and the only truth about it.

Every decision is written here before it has an effect. Times are Unix seconds, durations seconds, weights basis points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from dspy_contract.routes import TOTAL_WEIGHT, Backend, Pin, Users
from dspy_operator.api.rollout import OnCompared, Stream
from dspy_operator.api.times import UnixSeconds
from dspy_operator.domain.analysis.evidence import Evidence
from dspy_operator.domain.analysis.request_counts import RequestCounts
from dspy_operator.domain.analysis.streams import spending_of
from dspy_operator.domain.steps import Mirror, Step, Watch

LONGEST_HISTORY = 10
HEADROOM = 1.2
"""Of a candidate that is sized with its weight."""
LONGEST_REFUSED = 20
LONGEST_SERVED = 20
VERSION = 7
"""Of the ledger's form. One of a newer version is never written over; older ones are migrated."""


@dataclass(frozen=True, slots=True)
class Paused:
    """Why a release waits for a person or for something to heal."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Lowering:
    """A candidate's weight that the guard took away, until the evidence is confirmed or the cause is gone.

    `number` is that of the routes' `lowered`, or the next one when a pass found it first. `weight_bp` is what the
    candidate had. `clear_seconds`: how long the cause has been gone.
    """

    number: int
    reason: str
    stream: str
    message: str
    weight_bp: int
    clear_seconds: float = 0.0
    seconds: float = 0.0
    """How long it has been lowered."""
    stable: RequestCounts = RequestCounts()
    """Stable's requests of the release until then."""


@dataclass(frozen=True, slots=True)
class Conclusion:
    """How a comparison ended: its step, which side won, and what that means for the candidate that it is about."""

    step: int
    result: str
    action: OnCompared
    message: str
    candidate: str = ""


@dataclass(frozen=True, slots=True)
class Won:
    """That a candidate was better than stable at some look, and by how much: the interval is valid at any."""

    message: str
    gain: float


@dataclass(frozen=True, slots=True)
class CandidateState:
    """What each candidate of a release has of its own: what it is to have, and what is known of it."""

    candidate: str
    place: int = 0
    """Its number among those that the release began with, which decides where its range of users begins."""
    variant: str = ""
    """Its name in the policy; empty for what the spec asks for."""
    weight_bp: int = 0
    """Its desired weight, in basis points; while the release `mirrors`, the share that is copied."""
    sized_bp: int = 0
    """The greatest weight that it has been sized for: it keeps those pods, lowered or halved."""
    halvings: int = 0
    """How often a doubt has taken its weight down to half."""
    ready_once: bool = False
    """Whether it has been ready; until then the progress deadline runs."""
    lowered: Lowering | None = None
    answered: int = 0
    """The number of the last `lowered` that a pass has answered."""
    lowerings: Mapping[str, int] = field(default_factory=dict)
    """How often it was lowered, by reason: some waits double each time."""
    crashed: Mapping[str, UnixSeconds] = field(default_factory=dict)
    """Pods of it that ended by themselves since the release began, and when that was seen first."""
    won: Won | None = None
    evidence: Evidence = Evidence()


@dataclass(frozen=True, slots=True, kw_only=True)
class Release(CandidateState):
    """One passage of a candidate from weight 0 to stable or to refused. Steps are those of its beginning.

    A release of several candidates, an A/B/n test, is about one of them at a time: the first, unless a rule is about
    another (`about`). The `others` wait beside it.

    Times within a release are sums of the bounded differences between passes: a clock that jumps skips nothing.
    """

    id: int
    started_at: UnixSeconds
    others: tuple[CandidateState, ...] = ()
    asked_for: str = ""
    """What the spec asked for when it began, be it a candidate or stable itself; empty for the candidate."""
    generation: int = 0
    """The newest generation of the spec that asked for the candidate."""
    policy: str | None = None
    """The rollout that governs it; None: it switches when ready."""
    false_rollback_percent: float = 0.1
    """Alpha of this release. It may only get stricter: evidence was spent at the old one."""
    previewed: bool = False
    """Whether the candidate has a preview, whatever becomes of the policy."""
    streams: tuple[Stream, ...] = ()
    """What the policy says of the streams that are judged."""
    users: Users | None = None
    """How users are drawn; None: requests are."""
    conclusion: Conclusion | None = None
    """Of its comparison, if it has one that has ended."""
    steps: tuple[Step, ...] = ()
    step: int = 0
    """The step that is being carried out; equal to len(steps) when all are done."""
    approved_step: int | None = None
    """The step that a person has approved, if it is one that waits for that."""
    passed_step: int | None = None
    """The step whose smoke test has passed, if it is one."""
    step_seconds: float = 0.0
    """How long the step's clock has run; it stands still while something blocks the release."""
    blocked_seconds: float = 0.0
    """How long something has blocked the release without a break."""
    step_started_requests: int = 0
    drawn_in_steps: Mapping[str, int] | None = None
    """By gateway pod and incarnation, the newest draw table when the last step was done: what these and all before
    them drew must be answered before a promotion."""
    sized_with_weight: bool = False
    """Whether the candidate has only as many pods as its weight needs."""
    stable_crashed: Mapping[str, UnixSeconds] = field(default_factory=dict)
    """The same of stable's pods."""
    crashed_before: tuple[str, ...] = ()
    """Those that had before: they are no fault of this release."""
    paused: Paused | None = None

    @property
    def candidates(self) -> tuple[str, ...]:
        """All of them, in the order of their places."""
        return tuple(state.candidate for state in sorted((self, *self.others), key=lambda state: state.place))

    @property
    def concluded(self) -> bool:
        """Whether what was concluded is of the candidate that it is about."""
        return self.conclusion is not None and self.conclusion.candidate in ("", self.candidate)

    @property
    def each(self) -> tuple[Release, ...]:
        """The release about each of its candidates."""
        return tuple(self.about(candidate) for candidate in self.candidates)

    def about(self, candidate: str) -> Release:
        """The release about another of its candidates."""
        if candidate == self.candidate:
            return self
        chosen = next(state for state in self.others if state.candidate == candidate)
        return self._about(chosen, (self._own, *(state for state in self.others if state is not chosen)))

    def about_first(self) -> Release:
        """The release as it is kept: about the first of its candidates."""
        return self.about(self.candidates[0])

    def without(self) -> Release | None:
        """The release without the candidate that it is about; None when that was the last one."""
        return self._about(self.others[0], self.others[1:]).about_first() if self.others else None

    def with_each(self, change: Callable[[Release], Release]) -> Release:
        """The release after a change of what each of its candidates has of its own."""
        release = self
        for candidate in self.candidates:
            release = change(release.about(candidate))
        return release.about_first()

    @property
    def _own(self) -> CandidateState:
        return CandidateState(*(getattr(self, each.name) for each in fields(CandidateState)))

    def _about(self, state: CandidateState, others: tuple[CandidateState, ...]) -> Release:
        own: dict[str, Any] = {each.name: getattr(state, each.name) for each in fields(CandidateState)}
        return replace(self, **own, others=others)

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags of answers by which it is judged."""
        return tuple(sorted({stream.flag for stream in self.streams if stream.flag and stream.enabled}))

    @property
    def step_at_hand(self) -> Step | None:
        """The step that is being carried out; None when all are done."""
        return self.steps[self.step] if self.step < len(self.steps) else None

    @property
    def mirrors(self) -> bool:
        """True while the candidate gets copies of requests, and none itself."""
        return isinstance(self.step_at_hand, Mirror)

    @property
    def given(self) -> str:
        """What the candidate gets, in a word."""
        return "copies" if self.mirrors else "traffic"

    @property
    def backend(self) -> Backend:
        """What the gateways are to make of the candidate."""
        drawn, copied = (0, self.weight_bp) if self.mirrors else (self.weight_bp, 0)
        return Backend(self.candidate, drawn, copied)

    @property
    def spending(self) -> tuple[str, ...]:
        """The streams by which it is judged that are of what answers take or cost."""
        return tuple(stream.name for stream in spending_of(self.streams))

    @property
    def watched(self) -> bool:
        """True while the candidate has nearly all of the traffic, and until it takes over."""
        return bool(self.steps) and isinstance(self.steps[min(self.step, len(self.steps) - 1)], Watch)

    def rises_to_bp(self) -> int:
        """The greater one of the candidate's weight and of what the step at hand asks for."""
        asked = self.steps[self.step].desired_weight_bp(self.weight_bp) if self.step < len(self.steps) else TOTAL_WEIGHT
        return max(self.weight_bp, asked)

    def replicas_needed(self, replicas: int) -> int:
        """How many pods the candidate of a program with so many needs: for its weight and the one it rises to, with a
        fifth to spare, or all of them."""
        if not self.sized_with_weight:
            return replicas
        needed = math.ceil(replicas * max(self.sized_bp, self.rises_to_bp()) * HEADROOM / TOTAL_WEIGHT)
        return min(max(needed, 1), replicas)


@dataclass(frozen=True, slots=True)
class Refused:
    """A revision that was rolled back or aborted; not tried again until a person asks for it (retry).

    `outcome` is as in `Ended`.
    """

    revision: str
    outcome: str
    reason: str
    message: str
    at: UnixSeconds
    step: str = ""
    stable: RequestCounts = RequestCounts()
    candidate: RequestCounts = RequestCounts()


@dataclass(frozen=True, slots=True)
class Draining:
    """A revision without weight that may still have requests in flight."""

    revision: str
    seconds: float = 0.0
    """How long it has drained, as the sum of bounded differences between passes."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a release ended: Promoted, RolledBack, Refused, Aborted or Cancelled."""

    revision: str
    outcome: str
    message: str
    at: UnixSeconds
    version: str = ""


@dataclass(frozen=True, slots=True)
class Ledger:
    """The whole ledger of a program. `serial` numbers the routes, `releases` counts the releases; both only grow."""

    version: int = VERSION
    serial: int = 0
    releases: int = 0
    stable: str | None = None
    stable_proven: bool = False
    """Whether stable has ever been ready. One that never was can be replaced without a release."""
    release: Release | None = None
    refused: tuple[Refused, ...] = ()
    served: tuple[str, ...] = ()
    """Revisions that have been stable, the newest last: those that a person may go back to."""
    pin: Pin | None = None
    """The revision that serves instead of the one that the spec asks for, until it asks for another."""
    draining: tuple[Draining, ...] = ()
    history: tuple[Ended, ...] = ()
    refreshes: Mapping[str, int] = field(default_factory=dict)
    """By a revision's first name, how often a person asked to make it anew; part of its name. See `refreshes_of`."""
    request: str = ""
    """The request annotation that was handled last."""
    request_outcome: str = ""
    """What became of it."""
    ticked_at: UnixSeconds = 0.0
    """When the last pass was; Unix seconds."""
    checkpointed_at: UnixSeconds = 0.0
    """When evidence was last written."""

    def problem(self) -> str:
        """What is wrong with a ledger that was read; empty for one that can be carried on."""
        release = self.release
        if self.serial < 0 or self.releases < 0:
            return "serial and releases are never negative"
        if release is None:
            return ""
        if self.stable is None or self.stable in release.candidates:
            return "a release needs a stable that is not its candidate"
        if len({*release.candidates}) < len(release.candidates):
            return "a release has each of its candidates once"
        if sum(state.weight_bp for state in (release, *release.others)) > TOTAL_WEIGHT:
            return f"the candidates' weights are more than {TOTAL_WEIGHT}"
        if not all(0 <= state.weight_bp <= TOTAL_WEIGHT for state in (release, *release.others)):
            return f"weightBp {release.weight_bp} is not within 0 and {TOTAL_WEIGHT}"
        if not 0 <= release.step <= len(release.steps):
            return f"step {release.step} is not one of {len(release.steps)}"
        return ""

    def with_stable(self, revision: str) -> Ledger:
        """The ledger with a revision that is stable from now on."""
        others = tuple(name for name in self.served if name != revision)
        return replace(self, stable=revision, served=(*others, revision)[-LONGEST_SERVED:])

    def undoes(self, revision: str) -> bool:
        """True for the revision that a person goes back to: it has served before, and waits for no steps."""
        return self.pin is not None and self.pin.revision == revision

    def refusal(self, revision: str) -> Refused | None:
        """The refusal of a revision, if it was refused."""
        return next((refused for refused in self.refused if refused.revision == revision), None)

    def ended(self, revision: str, outcome: str, message: str, now: float, version: str = "") -> Ledger:
        """The ledger with a release's end in its history."""
        ended = Ended(revision, outcome, message, now, version)
        return replace(self, history=(*self.history, ended)[-LONGEST_HISTORY:])

    def with_draining(self, revision: str) -> Ledger:
        """The ledger with a revision that loses its weight now."""
        others = tuple(draining for draining in self.draining if draining.revision != revision)
        return replace(self, draining=(*others, Draining(revision)))

    def without_draining(self, revision: str) -> Ledger:
        """The ledger with a revision that drains no more."""
        return replace(self, draining=tuple(draining for draining in self.draining if draining.revision != revision))

    def with_refused(self, refused: Refused, asked_for: Collection[str] = ()) -> Ledger:
        """The ledger with one more refused revision. The oldest is forgotten, but none that is still asked for: it
        would be tried again."""
        others = [each for each in self.refused if each.revision != refused.revision]
        old = [each for each in others if each.revision not in asked_for][: max(len(others) + 1 - LONGEST_REFUSED, 0)]
        return replace(self, refused=(*(each for each in others if each not in old), refused))


def with_evidence_of(decided: Ledger, seen: Ledger) -> Ledger:
    """A decision with the evidence that was seen while it was written, from the same beginning: later, so more of it.

    What a decision forgave stays forgiven.
    """
    if decided.release is None or seen.release is None or decided.release.id != seen.release.id:
        return decided
    evidence = {each.candidate: each.evidence for each in seen.release.each}

    def later(release: Release) -> Release:
        forgiven = release.evidence.candidate_unreachable
        newer = evidence.get(release.candidate, release.evidence)
        return replace(release, evidence=replace(newer, candidate_unreachable=forgiven))

    return replace(decided, release=decided.release.with_each(later))
