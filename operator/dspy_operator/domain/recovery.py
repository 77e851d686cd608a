"""How a ledger is found again when the status that held it is lost."""

from __future__ import annotations

from dataclasses import replace

from dspy_operator.api.reasons import Reason
from dspy_operator.domain.ledger import Ledger, Refused
from dspy_operator.domain.snapshot import Snapshot

FORGOTTEN = "It was refused before the status was lost, which held the reason; the request retry tries it again"


def recover_ledger(snapshot: Snapshot, now: float) -> Ledger:
    """Stable is what the routes list first, else what was promoted last."""
    routes = snapshot.routes
    if routes is not None and routes.backends:
        stable, *others = routes.backends
        releases = max(routes.releases, routes.release.id if routes.release else 0)
        ledger = replace(_stable_at(stable.revision, snapshot), serial=routes.serial, releases=releases)
        for backend in others:
            ledger = ledger.with_draining(backend.revision)
        for revision in routes.refused:
            ledger = ledger.with_refused(Refused(revision, Reason.ROLLED_BACK, Reason.ROLLED_BACK, FORGOTTEN, now))
        return ledger
    promoted = {
        name: workload.promoted_at for name, workload in snapshot.workloads.items() if workload.promoted_at is not None
    }
    if not promoted:
        return Ledger()
    return _stable_at(max(promoted, key=lambda name: promoted[name]), snapshot)


def _stable_at(revision: str, snapshot: Snapshot) -> Ledger:
    known = snapshot.revisions.get(revision)
    return Ledger(stable=revision, stable_proven=True, refreshed=known.refreshed if known else 0)
