"""How a ledger is found again when the status that held it is lost."""

from __future__ import annotations

from dspy_operator.domain.ledger import Ledger
from dspy_operator.domain.snapshot import Snapshot


def recover_ledger(snapshot: Snapshot, now: float) -> Ledger:
    """Stable is what the routes list first, else what was promoted last."""
    routes = snapshot.routes
    if routes is not None and routes.backends:
        stable, *others = routes.backends
        ledger = Ledger(serial=routes.serial, stable=stable.revision, stable_proven=True)
        for backend in others:
            ledger = ledger.with_draining(backend.revision)
        return ledger
    promoted = {
        name: workload.promoted_at for name, workload in snapshot.workloads.items() if workload.promoted_at is not None
    }
    return Ledger(stable=max(promoted, key=lambda name: promoted[name]), stable_proven=True) if promoted else Ledger()
