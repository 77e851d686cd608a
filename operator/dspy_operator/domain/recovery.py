"""How a ledger is found again when the status that held it is lost."""

from __future__ import annotations

from dspy_operator.api.reasons import Reason
from dspy_operator.domain.ledger import Ledger, Refused
from dspy_operator.domain.snapshot import Snapshot

UNKNOWN_REQUEST = (
    "The status was lost, and with it what became of the request that stands: ask again, with another nonce"
)
FORGOTTEN = "It was refused before the status was lost, which held the reason; the request retry tries it again"


def recover_ledger(snapshot: Snapshot, now: float) -> Ledger:
    """Stable is what the routes list first, else what was promoted last."""
    routes = snapshot.routes
    if routes is not None and routes.backends:
        stable, *others = routes.backends
        releases = max(routes.releases, routes.release.id if routes.release else 0)
        ledger = Ledger(
            stable=stable.revision,
            stable_proven=True,
            served=(routes.pin.revision,) if routes.pin else (),
            serial=routes.serial,
            releases=releases,
            pin=routes.pin,
            # The annotation that stands may have been handled long ago: an old undo must not come back.
            request=snapshot.program.request,
            request_outcome=UNKNOWN_REQUEST if snapshot.program.request else "",
        )
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
    return Ledger(stable=max(promoted, key=lambda name: promoted[name]), stable_proven=True)
