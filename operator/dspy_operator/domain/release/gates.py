"""The steps in their order, and the gates at their end: complete, no worse, answered."""

from __future__ import annotations

import functools
from dataclasses import replace

from dspy_operator.api.reasons import Reason
from dspy_operator.api.rollout import OnUndecided
from dspy_operator.domain.analysis.judge import is_better, is_confirmed, judge
from dspy_operator.domain.analysis.verdict import Verdict
from dspy_operator.domain.ledger import Ledger, Release
from dspy_operator.domain.readiness import draws_users, fully_ready
from dspy_operator.domain.release.blocking import blocking_reason
from dspy_operator.domain.release.in_force import analysis_of
from dspy_operator.domain.release.lifecycle import promote
from dspy_operator.domain.release.progress import at_step, copies_are_answered, progress_of, steps_are_answered
from dspy_operator.domain.snapshot import Snapshot
from dspy_operator.domain.transition import Event, Transition

CALM_SECONDS, LONGEST_CALM_SECONDS = 30.0, 600.0


def note_ready(ledger: Ledger, snapshot: Snapshot, now: float) -> Transition:
    """The steps begin when the candidate is ready for the first time."""
    release = ledger.release
    if release is None or release.ready_once or not fully_ready(snapshot, release):
        return ledger, ()
    event = Event(Reason.CANDIDATE_READY, f"{snapshot.label(release.candidate)} is ready")
    return replace(ledger, release=replace(at_step(release, release.step), ready_once=True)), (event,)


def advance_steps(ledger: Ledger, snapshot: Snapshot, now: float) -> Transition:
    """The step that is done gives way to the next, until one is not done or asks for another weight."""
    release = ledger.release
    if release is None or not _may_move(ledger, release, snapshot):
        return ledger, ()
    while release.step < len(release.steps):
        step = release.steps[release.step]
        weight_bp = step.desired_weight_bp(release.weight_bp)
        if weight_bp > release.weight_bp and not _may_rise(release, snapshot):
            break
        if weight_bp != release.weight_bp:
            where = f"Step {release.step + 1} of {len(release.steps)}"
            to = "each of the candidates" if release.others else "the candidate"
            given = f"requests are copied to {to}" if release.mirrors else f"traffic goes to {to}"
            event = Event(Reason.WEIGHT_SET, f"{where}: {weight_bp / 100:g}% of the {given}")
            # What a step waits for is counted from when it has its weight.
            given_to = functools.partial(replace, weight_bp=weight_bp)
            return replace(ledger, release=at_step(release, release.step).with_each(given_to)), (event,)
        if not step.is_done(progress_of(ledger, release, snapshot)):
            break
        release = at_step(release, release.step + 1)
    return replace(ledger, release=release), ()


def promote_when_gates_open(ledger: Ledger, snapshot: Snapshot, now: float) -> Transition:
    """After the last step the candidate becomes stable, once it is complete, its answers are in, and it is shown fit.

    A request in flight is no good answer yet: nothing hangs into stable.
    """
    release = ledger.release
    if release is None or release.step < len(release.steps) or not _may_move(ledger, release, snapshot):
        return ledger, ()
    if release.drawn_in_steps is None:
        release = replace(release, drawn_in_steps=release.evidence.newest_tables)
        ledger = replace(ledger, release=release)
    if not fully_ready(snapshot, release):
        return ledger, ()
    if not release.policy:
        why = "as undo asks" if ledger.undoes(release.candidate) else "and no rollout policy asks for more"
        return promote(ledger, snapshot, now, f"Ready, {why}")
    told = release.evidence.users.complete or not draws_users(release, snapshot.program)
    if not steps_are_answered(release) or not told or not _shown_fit(release, snapshot):
        return ledger, ()
    shown = judge(release.evidence, analysis_of(release, snapshot)).message
    return promote(ledger, snapshot, now, release.conclusion.message if release.conclusion else shown)


def _may_move(ledger: Ledger, release: Release, snapshot: Snapshot) -> bool:
    return release.ready_once and blocking_reason(ledger, snapshot) is None


def _may_rise(release: Release, snapshot: Snapshot) -> bool:
    """True when the pods are there for more traffic, when it is known what copies came to, and what a doubt took away
    was taken long enough ago: twice as long each time."""
    calm = min(CALM_SECONDS * 2.0 ** (release.halvings - 1), LONGEST_CALM_SECONDS) if release.halvings else 0.0
    known = release.mirrors or copies_are_answered(release)
    ready = all(fully_ready(snapshot, each) for each in release.each)
    return known and ready and release.step_seconds >= calm


def _shown_fit(release: Release, snapshot: Snapshot) -> bool:
    analysis = analysis_of(release, snapshot)
    if is_better(release.evidence, analysis.false_rollback_percent / 100):
        return True
    judged = judge(release.evidence, analysis)
    if judged.verdict is Verdict.NO_WORSE:
        return True
    if release.conclusion:
        # What was compared was compared for this; the guard has the last word.
        return judged.verdict is not Verdict.WORSE and not is_confirmed(judged)
    if analysis.on_undecided is not OnUndecided.PROMOTE or judged.verdict is Verdict.WORSE:
        return False
    # What nobody knows is no good answer: a restart of every gateway must not promote a candidate that hangs. Nor is
    # one undecided that would be refused had it been lowered.
    served = release.evidence.served
    unknown = served.lost / max(served.requests, 1)
    return unknown <= analysis.margin_percent / 100 and not is_confirmed(judged)
