"""Whether a revision can answer, and why not. Pure questions to a snapshot."""

from __future__ import annotations

from dspy_operator.domain.snapshot import Gateway, Problem, Snapshot, Workload

UNREACHABLE_GRACE_SECONDS = 10.0
"""How long a gateway pod that does not answer is waited for while others have confirmed."""


def can_serve(snapshot: Snapshot, revision: str | None) -> bool:
    """True when at least one pod of the revision is ready."""
    workload = snapshot.workloads.get(revision or "")
    return workload is not None and workload.ready > 0


def fully_ready(snapshot: Snapshot, revision: str) -> bool:
    """True when every replica that the spec asks for is ready."""
    workload = snapshot.workloads.get(revision)
    desired = snapshot.program.spec.replicas
    return workload is not None and workload.replicas >= desired and workload.ready >= max(desired, 1)


def problem_of(workload: Workload | None) -> Problem:
    """Why a revision is not ready, in the words of its pods where they have any."""
    if workload is None:
        return Problem("Creating", "Its pods are being created")
    return (
        workload.fatal
        or workload.problem
        or Problem("NotReady", f"{workload.ready} of {workload.replicas} pods are ready")
    )


def serial_acked(gateway: Gateway, uid: str, serial: int, waited_seconds: float) -> bool:
    """True when every gateway pod that carries traffic obeys the serial, which has been waited for that long."""
    carrying = [state for pod, state in gateway.states.items() if pod in gateway.pods]
    serials = [state.programs[uid].serial if uid in state.programs else 0 for state in carrying]
    if not serials or any(known < serial for known in serials):
        return False
    silent = gateway.pods - set(gateway.states)
    return not silent or waited_seconds > UNREACHABLE_GRACE_SECONDS


def requests_in_flight(gateway: Gateway, uid: str, revision: str) -> int | None:
    """Requests in flight to a revision over all gateway pods; None while some pod has not answered."""
    if not gateway.states or gateway.pods - set(gateway.states):
        return None
    programs = (state.programs[uid] for state in gateway.states.values() if uid in state.programs)
    return sum(program.totals[revision].open for program in programs if revision in program.totals)


def listening(gateway: Gateway, uid: str) -> bool:
    """True when some gateway pod has the program's listener open."""
    return any(uid in state.programs and state.programs[uid].listening for state in gateway.states.values())
