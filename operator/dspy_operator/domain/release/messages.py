"""Every sentence about a release that people read in tables and conditions."""

from __future__ import annotations

from dspy_operator.api.rollout import Analysis
from dspy_operator.domain.analysis import evidence as evidence_of
from dspy_operator.domain.ledger import Ledger, Release
from dspy_operator.domain.readiness import fully_ready, serial_acked
from dspy_operator.domain.snapshot import Snapshot
from dspy_operator.domain.steps import Progress


def step_label(release: Release) -> str:
    """The step at hand and how many there are, as 2/6; empty without steps."""
    return f"{min(release.step + 1, len(release.steps))}/{len(release.steps)}" if release.steps else ""


def progress_of(ledger: Ledger, release: Release, snapshot: Snapshot, now: float) -> Progress:
    """How far the step at hand is."""
    routed = snapshot.routes is not None and snapshot.routes.weight(release.candidate) == release.weight_bp
    acked = serial_acked(snapshot.gateway, snapshot.program.uid, ledger.serial, release.step_started_at, now)
    stopped = release.clock_stopped_at
    return Progress(
        elapsed_seconds=(now if stopped is None else stopped) - release.step_started_at,
        candidate_requests=release.evidence.candidate.requests - release.step_started_requests,
        weight_bp=release.weight_bp,
        routes_acked=routed and acked,
    )


def describe_step(ledger: Ledger, release: Release, snapshot: Snapshot, now: float) -> str:
    """What the step at hand does or waits for, blocked or not."""
    if release.step < len(release.steps):
        return release.steps[release.step].describe(progress_of(ledger, release, snapshot, now))
    if not fully_ready(snapshot, release.candidate):
        return "Waiting until every pod of the candidate is ready"
    if release.awaited_requests is not None:
        answered = release.evidence.candidate.answered
        return f"Waiting for the answers to {release.awaited_requests} candidate requests, {answered} so far"
    analysis = snapshot.policy.spec.analysis if snapshot.policy else Analysis()
    verdict = evidence_of.judge(release.evidence, analysis)
    return f"Waiting for proof that the candidate is no worse. {verdict.message}"
