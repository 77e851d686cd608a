"""Every sentence about a release that people read in tables and conditions."""

from __future__ import annotations

from dspy_operator.domain.analysis.judge import described
from dspy_operator.domain.ledger import Ledger, Release
from dspy_operator.domain.readiness import fully_ready, refusal_of, routes_acked
from dspy_operator.domain.snapshot import Snapshot
from dspy_operator.domain.steps import Progress


def step_label(release: Release) -> str:
    """The step at hand and how many there are, as 2/6; empty without steps."""
    return f"{min(release.step + 1, len(release.steps))}/{len(release.steps)}" if release.steps else ""


def progress_of(ledger: Ledger, release: Release, snapshot: Snapshot) -> Progress:
    """How far the step at hand is."""
    routed = snapshot.routes is not None and snapshot.routes.weight(release.candidate) == release.weight_bp
    acked = routes_acked(snapshot, ledger.serial, release.step_seconds)
    return Progress(
        elapsed_seconds=release.step_seconds,
        candidate_requests=release.evidence.candidate.requests - release.step_started_requests,
        weight_bp=release.weight_bp,
        routes_acked=routed and acked,
        refusal=refusal_of(snapshot.gateway, snapshot.program.uid),
    )


def describe_step(ledger: Ledger, release: Release, snapshot: Snapshot) -> str:
    """What the step at hand does or waits for, blocked or not."""
    if release.step < len(release.steps):
        return release.steps[release.step].describe(progress_of(ledger, release, snapshot))
    if not fully_ready(snapshot, release.candidate):
        return "Waiting until every pod of the candidate is ready"
    if release.drawn_in_steps is not None and not is_answered(release):
        open_requests = release.evidence.candidate.open
        return f"Waiting for what the steps drew to be answered: {open_requests} candidate requests are in flight"
    return f"Waiting for proof that the candidate is no worse: {described(release.evidence)}"


def is_answered(release: Release) -> bool:
    """True when every request that was drawn before the steps ended has been answered, one way or the other."""
    drawn = release.drawn_in_steps
    return drawn is not None and all(
        table.settled or table.number > drawn.get(table.series, 0) for table in release.evidence.tables.values()
    )
