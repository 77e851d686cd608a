"""Where evidence meets the release: what was counted goes in, and a candidate that failed goes out."""

from __future__ import annotations

from dataclasses import replace

from dspy_operator.api.rollout import Analysis
from dspy_operator.domain.analysis import evidence as evidence_of
from dspy_operator.domain.analysis.evidence import Judged, ReleasePair, Verdict
from dspy_operator.domain.ledger import Ledger
from dspy_operator.domain.release.lifecycle import refuse
from dspy_operator.domain.snapshot import Snapshot
from dspy_operator.domain.transition import Transition

MOST_CRASHES = 3


def analysis_of(snapshot: Snapshot) -> Analysis:
    """The analysis in force: the policy's as it stands now, else the default guard."""
    return snapshot.policy.spec.analysis if snapshot.policy else Analysis()


def judged(ledger: Ledger, snapshot: Snapshot) -> Judged | None:
    """The verdict on the candidate now; None without a release."""
    return evidence_of.judge(ledger.release.evidence, analysis_of(snapshot)) if ledger.release else None


def collect_evidence(ledger: Ledger, snapshot: Snapshot, now: float) -> Transition:
    """What the gateways counted goes into the evidence."""
    release = ledger.release
    if release is None or ledger.stable is None or not snapshot.gateway.states:
        return ledger, ()
    pair = ReleasePair(ledger.stable, release.candidate, release.started_at)
    states, uid = snapshot.gateway.states, snapshot.program.uid
    accumulated = evidence_of.accumulate(release.evidence, states, uid, pair, analysis_of(snapshot), now)
    workload = snapshot.workloads.get(release.candidate)
    crashes = min(release.step_started_crashes, workload.crashes) if workload else release.step_started_crashes
    return replace(ledger, release=replace(release, evidence=accumulated, step_started_crashes=crashes)), ()


def refuse_failed_candidate(ledger: Ledger, snapshot: Snapshot, now: float) -> Transition:
    """A candidate that cannot load, keeps crashing, or is worse is refused from every state."""
    release = ledger.release
    if release is None:
        return ledger, ()
    workload = snapshot.workloads.get(release.candidate)
    if workload and workload.fatal:
        return refuse(ledger, snapshot, now, "Refused", workload.fatal.reason, workload.fatal.message)
    crashes = workload.crashes - release.step_started_crashes if workload else 0
    if crashes >= MOST_CRASHES:
        message = f"The candidate ended by itself {crashes} times within a step"
        return refuse(ledger, snapshot, now, "RolledBack", "Crashes", message)
    verdict = judged(ledger, snapshot)
    if verdict and verdict.verdict is Verdict.WORSE:
        return refuse(ledger, snapshot, now, "RolledBack", verdict.reason, verdict.message)
    return ledger, ()
