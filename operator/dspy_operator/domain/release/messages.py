"""What a release does now, in one sentence. Why one waits, blocking.py and lowering.py say."""

from __future__ import annotations

from dspy_operator.domain.analysis.judge import described
from dspy_operator.domain.ledger import Ledger, Release
from dspy_operator.domain.readiness import fully_ready
from dspy_operator.domain.release.progress import copies_are_answered, progress_of, steps_are_answered
from dspy_operator.domain.snapshot import Snapshot


def step_label(release: Release) -> str:
    """The step at hand and how many there are, as 2/6; empty without steps."""
    return f"{min(release.step + 1, len(release.steps))}/{len(release.steps)}" if release.steps else ""


def describe_step(ledger: Ledger, release: Release, snapshot: Snapshot) -> str:
    """What the step at hand does or waits for, blocked or not."""
    if release.step < len(release.steps):
        rising = [each for each in release.each if each.rises_to_bp() > each.weight_bp]
        late = next((each for each in rising if not fully_ready(snapshot, each)), None)
        if late:
            return _waiting_for_pods(late, snapshot)
        if release.rises_to_bp() > release.weight_bp and not (release.mirrors or copies_are_answered(release)):
            return f"Waiting for copies to be answered: {release.evidence.candidate.open} are in flight"
        return release.steps[release.step].describe(progress_of(ledger, release, snapshot))
    if not fully_ready(snapshot, release):
        return _waiting_for_pods(release, snapshot)
    if release.drawn_in_steps is not None and not steps_are_answered(release):
        open_requests = release.evidence.candidate.open
        return f"Waiting for what the steps drew to be answered: {open_requests} candidate requests are in flight"
    return f"Waiting for proof that the candidate is no worse: {described(release.evidence)}"


def _waiting_for_pods(release: Release, snapshot: Snapshot) -> str:
    if not release.sized_with_weight:
        return "Waiting until every pod of the candidate is ready"
    needed = release.replicas_needed(snapshot.program.spec.replicas)
    return f"Waiting until the candidate has {needed} ready pods, for {release.rises_to_bp() / 100:g}% of the traffic"
