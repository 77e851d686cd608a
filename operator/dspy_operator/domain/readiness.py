"""Whether a revision can answer, and why not. Pure questions to a snapshot."""

from __future__ import annotations

from collections.abc import Collection

from dspy_contract.routes import (
    CACHE_FEATURE,
    CONVERSATIONS_FEATURE,
    FLAGS_FEATURE,
    MEASURE_FEATURE,
    MIRROR_FEATURE,
    RELEASE_NEEDS,
    USERS_FEATURE,
)
from dspy_contract.stat_names import cached, forced, mirrored, of_users
from dspy_operator.api.reasons import Reason
from dspy_operator.domain.ledger import Release
from dspy_operator.domain.snapshot import Gateway, Problem, Program, Snapshot, Workload
from dspy_operator.domain.steps import Mirror

UNREACHABLE_GRACE_SECONDS = 10.0
"""How long a gateway pod that does not answer is waited for while others have confirmed."""


def can_serve(snapshot: Snapshot, revision: str | None) -> bool:
    """True when at least one pod of the revision is ready."""
    workload = snapshot.workloads.get(revision or "")
    return workload is not None and workload.ready > 0


def fully_ready(snapshot: Snapshot, release: Release) -> bool:
    """True when every pod is ready that the candidate needs for the step at hand."""
    workload = snapshot.workloads.get(release.candidate)
    needed = release.replicas_needed(snapshot.program.spec.replicas)
    return workload is not None and workload.replicas >= needed and workload.ready >= max(needed, 1)


def problem_of(workload: Workload | None) -> Problem:
    """Why a revision is not ready, in the words of its pods where they have any."""
    if workload is None:
        return Problem(Reason.CREATING, "Its pods are being created")
    return (
        workload.fatal
        or workload.problem
        or Problem(Reason.NOT_READY, f"{workload.ready} of {workload.replicas} pods are ready")
    )


def routes_acked(snapshot: Snapshot, serial: int, waited_seconds: float) -> bool:
    """True when every gateway pod obeys the routes of this serial, word for word.

    They have been waited for that long: a pod that does not answer, or carries no new connections, has a while for it.
    """
    gateway, routes = snapshot.gateway, snapshot.routes
    if routes is None or routes.serial != serial:
        return False
    told = {pod: state.programs.get(routes.uid) for pod, state in gateway.states.items()}
    obeying = {pod for pod, each in told.items() if each and (each.serial, each.content) == (serial, routes.content)}
    late = {pod for pod, each in told.items() if each and each.listening} | gateway.pods
    if not obeying & gateway.pods or (gateway.pods & told.keys()) - obeying:
        return False
    return late <= obeying or waited_seconds > UNREACHABLE_GRACE_SECONDS


def refusal_of(gateway: Gateway, uid: str) -> str:
    """Why some gateway pod does not obey the newest routes, in Envoy's words; empty where none refuses them."""
    told = {pod: state.programs[uid].refusal for pod, state in gateway.states.items() if uid in state.programs}
    return next((f"{pod} refuses the routes: {words}" for pod, words in sorted(told.items()) if words), "")


def missing_features(gateway: Gateway, needs: Collection[str]) -> tuple[str, str] | None:
    """A gateway pod that carries traffic and cannot do what is needed, and what; None where all can."""
    for pod, state in sorted(gateway.states.items()):
        missing = sorted({*needs} - {*state.features})
        if pod in gateway.pods and missing:
            return pod, ", ".join(missing)
    return None


def draws_users(release: Release, program: Program) -> bool:
    """Whether users or conversations are drawn in a release, and not requests: then it is judged by them."""
    return release.users is not None or program.spec.routing.conversations is not None


def release_needs(release: Release, snapshot: Snapshot) -> tuple[str, ...]:
    """What a gateway pod must be able to do before a candidate of this release has traffic."""
    flags = (FLAGS_FEATURE,) if release.flags else ()
    measure = (MEASURE_FEATURE,) if release.users and release.users.measure else ()
    mirror = (MIRROR_FEATURE,) if any(isinstance(step, Mirror) for step in release.steps) else ()
    drawn = (
        (USERS_FEATURE if release.users else CONVERSATIONS_FEATURE,) if draws_users(release, snapshot.program) else ()
    )
    kept = (CACHE_FEATURE,) if snapshot.cached else ()
    # What is spent is a feature by the stream's own name.
    return (*RELEASE_NEEDS, *flags, *release.spending, *mirror, *drawn, *measure, *kept)


def requests_in_flight(gateway: Gateway, uid: str, revision: str) -> int | None:
    """Requests in flight to a revision over all gateway pods; None while some pod has not answered."""
    if not gateway.states or gateway.pods - set(gateway.states):
        return None
    totals = [state.programs[uid].totals for state in gateway.states.values() if uid in state.programs]
    names = [name(revision) for name in (str, forced, of_users, mirrored, cached)]
    return sum(each[name].open for each in totals for name in names if name in each)


def listening(gateway: Gateway, uid: str) -> bool:
    """True when some gateway pod has the program's listener open."""
    return any(uid in state.programs and state.programs[uid].listening for state in gateway.states.values())
