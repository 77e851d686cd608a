"""Where evidence meets the release: what was counted goes in, and a candidate that cannot run goes out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from dspy_operator.api.reasons import Reason
from dspy_operator.domain.analysis.evidence import Look, accumulate
from dspy_operator.domain.analysis.streams import spending_of
from dspy_operator.domain.analysis.users import NO_USERS
from dspy_operator.domain.ledger import Ledger
from dspy_operator.domain.release.in_force import analysis_of
from dspy_operator.domain.release.lifecycle import refuse
from dspy_operator.domain.snapshot import Snapshot, Workload
from dspy_operator.domain.transition import Transition

MOST_CRASHED_PODS = 3
CRASHES_SECONDS = 1_800.0
"""A pod that ended longer ago is forgotten: one a day is no reason, however long a release takes."""


def collect_evidence(ledger: Ledger, snapshot: Snapshot, now: float) -> Transition:
    """What the gateways counted goes into the evidence."""
    release = ledger.release
    if release is None or ledger.stable is None:
        return ledger, ()
    spending = spending_of(release.streams)
    look = Look(snapshot.program.uid, ledger.stable, release.candidate, release.id, release.step, now, spending)
    users = snapshot.gateway.users.get(release.candidate, NO_USERS)
    evidence = accumulate(release.evidence, snapshot.gateway.states, look, users)
    analysis = analysis_of(release, snapshot)
    release = replace(release, evidence=evidence, false_rollback_percent=analysis.false_rollback_percent)
    return replace(ledger, release=release), ()


def refuse_failed_candidate(ledger: Ledger, snapshot: Snapshot, now: float) -> Transition:
    """A candidate that cannot load, or whose pods keep ending by themselves, is refused from every state.

    It cannot load only if no pod of it ever did: a full disk on one node is no property of a version.
    """
    release = ledger.release
    workload = snapshot.workloads.get(release.candidate) if release else None
    if release is None or workload is None:
        return ledger, ()
    if workload.fatal and workload.ready == 0 and not release.ready_once:
        return refuse(ledger, snapshot, now, Reason.REFUSED, workload.fatal.reason, workload.fatal.message)
    stable = snapshot.workloads.get(str(ledger.stable))
    crashed = _crashed(release.crashed, workload, release.crashed_before, now)
    stable_crashed = _crashed(release.stable_crashed, stable, release.crashed_before, now)
    ledger = replace(ledger, release=replace(release, crashed=crashed, stable_crashed=stable_crashed))
    ended = _lately(crashed, now)
    stable_share = _lately(stable_crashed, now) / max(stable.replicas, 1) if stable else 0.0
    if ended >= MOST_CRASHED_PODS and stable_share < ended / max(workload.replicas, 1) / 2:
        message = f"{ended} pods of the candidate ended by themselves, and far fewer of stable's"
        return refuse(ledger, snapshot, now, Reason.ROLLED_BACK, Reason.CRASHES, message)
    return ledger, ()


def _crashed(
    known: Mapping[str, float], workload: Workload | None, before: Collection[str], now: float
) -> dict[str, float]:
    """Pods that ended by themselves, and when that was seen first: those that still tell of it, and those of lately."""
    seen = workload.crashed - {*before} if workload else frozenset()
    crashed = {**dict.fromkeys(sorted(seen), now), **known}
    return {name: at for name, at in crashed.items() if name in seen or now - at < CRASHES_SECONDS}


def _lately(crashed: Mapping[str, float], now: float) -> int:
    return sum(now - at < CRASHES_SECONDS for at in crashed.values())
