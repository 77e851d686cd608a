"""What people ask of a release by the annotation dspy.dev/request: `<verb> <revision>[/<step>] <nonce>`. One function a
verb."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from dspy_operator.domain.ledger import Ledger
from dspy_operator.domain.release.lifecycle import refuse
from dspy_operator.domain.snapshot import Snapshot
from dspy_operator.domain.transition import Event, Transition


@dataclass(frozen=True, slots=True)
class Request:
    """A parsed request. `revision` is empty where none is named."""

    verb: str
    revision: str


def parse(annotation: str) -> Request:
    """The annotation's parts."""
    verb, _, rest = annotation.partition(" ")
    return Request(verb, rest.split(" ")[0].partition("/")[0])


def handle_request(ledger: Ledger, snapshot: Snapshot, now: float) -> Transition:
    """A request is handled once; one that names another revision does nothing and is told so."""
    annotation = snapshot.program.request
    if not annotation or annotation == ledger.request:
        return ledger, ()
    ledger = replace(ledger, request=annotation)
    request = parse(annotation)
    verb = VERBS.get(request.verb)
    if verb is None:
        known = f"known is: {', '.join(sorted(VERBS))} <revision> <nonce>"
        return ledger, (Event("RequestUnknown", f"The request {request.verb!r} is not known; {known}", warning=True),)
    return verb(ledger, snapshot, request, now)


def _abort(ledger: Ledger, snapshot: Snapshot, request: Request, now: float) -> Transition:
    """Refuses the candidate."""
    candidate = ledger.release.candidate if ledger.release else "none"
    if ledger.release is None or candidate != request.revision:
        message = f"abort names {request.revision!r}, but the candidate is {candidate}"
        return ledger, (Event("RequestIgnored", message, warning=True),)
    return refuse(ledger, snapshot, now, "Aborted", "Aborted", "A person aborted the release")


VERBS: Mapping[str, Callable[[Ledger, Snapshot, Request, float], Transition]] = {"abort": _abort}
