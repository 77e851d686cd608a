"""When a revision that lost its weight is needed no more."""

from __future__ import annotations

from dspy_contract.routes import Backend
from dspy_operator.api.reasons import Reason
from dspy_operator.domain.ledger import Draining, Ledger
from dspy_operator.domain.readiness import can_serve, requests_in_flight, routes_acked
from dspy_operator.domain.snapshot import Snapshot
from dspy_operator.domain.transition import Event, Transition

DRAIN_TIMEOUT_SECONDS = 600.0


def retire_drained(ledger: Ledger, snapshot: Snapshot, now: float) -> Transition:
    """A revision without weight and without requests in flight goes; one that drains for too long is cut."""
    events: list[Event] = []
    for draining in ledger.draining:
        if _is_needed(ledger, snapshot, draining):
            continue
        in_flight = requests_in_flight(snapshot.gateway, snapshot.program.uid, draining.revision)
        if (_is_drained(ledger, snapshot, draining) and in_flight == 0) or _never_ran(snapshot, draining):
            ledger = ledger.without_draining(draining.revision)
        elif draining.seconds > DRAIN_TIMEOUT_SECONDS:
            cut = "An unknown number of" if in_flight is None else str(in_flight)
            message = f"{draining.revision}: {cut} requests were cut after {DRAIN_TIMEOUT_SECONDS:.0f} s"
            if in_flight != 0:
                events.append(Event(Reason.DRAIN_TIMEOUT, message, warning=True))
            ledger = ledger.without_draining(draining.revision)
    return ledger, tuple(events)


def _is_needed(ledger: Ledger, snapshot: Snapshot, draining: Draining) -> bool:
    """True while it carries what stable cannot."""
    return not can_serve(snapshot, ledger.stable) and can_serve(snapshot, draining.revision)


def _never_ran(snapshot: Snapshot, draining: Draining) -> bool:
    return snapshot.workloads.get(draining.revision) is None


def _is_drained(ledger: Ledger, snapshot: Snapshot, draining: Draining) -> bool:
    """True when every gateway obeys routes that give it nothing."""
    unrouted = snapshot.routes is None or snapshot.routes.backend(draining.revision) == Backend(draining.revision, 0)
    return unrouted and routes_acked(snapshot, ledger.serial, draining.seconds)
