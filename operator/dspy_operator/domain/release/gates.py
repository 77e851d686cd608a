"""The steps in their order, and the gates at their end: complete, no worse, answered."""

from __future__ import annotations

from dataclasses import replace

from dspy_operator.api.rollout import OnUndecided
from dspy_operator.domain.analysis.evidence import Verdict
from dspy_operator.domain.ledger import Ledger, Release
from dspy_operator.domain.readiness import fully_ready
from dspy_operator.domain.release.blocking import at_step, blocking_reason
from dspy_operator.domain.release.judging import analysis_of, judged
from dspy_operator.domain.release.lifecycle import promote
from dspy_operator.domain.release.messages import progress_of
from dspy_operator.domain.snapshot import Snapshot
from dspy_operator.domain.transition import Event, Transition


def advance_steps(ledger: Ledger, snapshot: Snapshot, now: float) -> Transition:
    """The step that is done gives way to the next, until one is not done or asks for another weight."""
    release = ledger.release
    if release is None or not _may_move(ledger, release, snapshot):
        return ledger, ()
    while release.step < len(release.steps):
        step = release.steps[release.step]
        weight_bp = step.desired_weight_bp(release.weight_bp)
        if weight_bp != release.weight_bp:
            where = f"Step {release.step + 1} of {len(release.steps)}"
            event = Event("WeightSet", f"{where}: {weight_bp / 100:g}% of the traffic goes to the candidate")
            return replace(ledger, release=replace(release, weight_bp=weight_bp)), (event,)
        if not step.is_done(progress_of(ledger, release, snapshot, now)):
            break
        release = at_step(release, snapshot, release.step + 1, now)
    return replace(ledger, release=release), ()


def promote_when_gates_open(ledger: Ledger, snapshot: Snapshot, now: float) -> Transition:
    """After the last step the candidate becomes stable, once it is complete, shown fit, and its answers are in.

    A request in flight is no good answer yet: a candidate that hangs has no failures either.
    """
    release = ledger.release
    if release is None or release.step < len(release.steps) or not _may_move(ledger, release, snapshot):
        return ledger, ()
    if not fully_ready(snapshot, release.candidate) or not _shown_fit(ledger, release, snapshot):
        return replace(ledger, release=replace(release, awaited_requests=None)), ()
    if release.policy and release.awaited_requests is None:
        release = replace(release, awaited_requests=release.evidence.candidate.requests)
        ledger = replace(ledger, release=release)
    if release.evidence.candidate.answered < (release.awaited_requests or 0):
        return ledger, ()
    verdict = judged(ledger, snapshot)
    message = verdict.message if verdict and release.policy else "Ready, and no rollout policy asks for more"
    return promote(ledger, snapshot, now, message)


def _may_move(ledger: Ledger, release: Release, snapshot: Snapshot) -> bool:
    return release.ready_once and blocking_reason(ledger, snapshot) is None


def _shown_fit(ledger: Ledger, release: Release, snapshot: Snapshot) -> bool:
    verdict = judged(ledger, snapshot)
    if not release.policy or verdict is None or verdict.verdict is Verdict.NO_WORSE:
        return True
    return verdict.verdict is Verdict.UNDECIDED and analysis_of(snapshot).on_undecided is OnUndecided.PROMOTE
