"""What people ask of a release by the annotation dspy.dev/request: `<verb> <revision>[/<step>] <nonce>`. One function
a verb."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from dspy_contract.routes import Pin
from dspy_operator.api.reasons import Reason
from dspy_operator.api.rollout import OnCompared
from dspy_operator.domain.ledger import Conclusion, Ledger, Refused, Release
from dspy_operator.domain.readiness import fully_ready
from dspy_operator.domain.release.lifecycle import cancel, go_on_alone, promote, refuse
from dspy_operator.domain.release.messages import step_label
from dspy_operator.domain.release.progress import at_step, awaits_approval
from dspy_operator.domain.snapshot import Revision, Snapshot
from dspy_operator.domain.steps import Compare
from dspy_operator.domain.transition import Event, Transition


@dataclass(frozen=True, slots=True)
class Request:
    """A parsed request. `revision` and `step` are empty where none is named."""

    verb: str
    revision: str
    step: str = ""


def parse(annotation: str) -> Request:
    """The annotation's parts."""
    verb, _, rest = annotation.partition(" ")
    revision, _, step = rest.split(" ")[0].partition("/")
    return Request(verb, revision, step)


def handle_request(ledger: Ledger, snapshot: Snapshot, now: float) -> Transition:
    """A request is handled once; one that names another revision does nothing and is told so."""
    annotation = snapshot.program.request
    if not annotation or annotation == ledger.request:
        return ledger, ()
    ledger = replace(ledger, request=annotation)
    request = parse(annotation)
    verb = VERBS.get(request.verb)
    if verb is None:
        known = f"known is: {', '.join(sorted(VERBS))} <revision>[/<step>] <nonce>"
        return ledger, (
            Event(Reason.REQUEST_UNKNOWN, f"The request {request.verb!r} is not known; {known}", warning=True),
        )
    if ledger.release and request.revision in ledger.release.candidates:
        ledger = replace(ledger, release=ledger.release.about(request.revision))
    ledger, events = verb(ledger, snapshot, request, now)
    if ledger.release:
        ledger = replace(ledger, release=ledger.release.about_first())
    outcome = f"{annotation}: {events[-1].message}" if events else annotation
    return replace(ledger, request_outcome=outcome), events


def _abort(ledger: Ledger, snapshot: Snapshot, request: Request, now: float) -> Transition:
    """Refuses the candidate."""
    if not _names_candidate(ledger, request):
        return _ignored(ledger, request, _candidate_is(ledger))
    if ledger.undoes(request.revision):
        assert ledger.pin is not None
        assert ledger.release is not None
        return cancel(replace(ledger, pin=None), ledger.release, ledger.pin.instead_of, snapshot, now)
    return refuse(ledger, snapshot, now, Reason.ABORTED, Reason.ABORTED, "A person aborted the release")


def _promote(ledger: Ledger, snapshot: Snapshot, request: Request, now: float) -> Transition:
    """Makes the candidate stable at once, or with a step goes on to the next one: skips steps and proof, never the
    guard."""
    if not _names_candidate(ledger, request):
        return _ignored(ledger, request, _candidate_is(ledger))
    assert ledger.release is not None
    if ledger.release.lowered:
        return _ignored(
            ledger, request, f"the guard took its {ledger.release.given} away: {ledger.release.lowered.message}"
        )
    if request.step:
        return _next_step(ledger, snapshot, request, ledger.release, now)
    if not fully_ready(snapshot, replace(ledger.release, sized_with_weight=False)):
        return _ignored(ledger, request, "the candidate has not all the pods of a stable revision, ready")
    return promote(ledger, snapshot, now, "A person promoted it")


def _next_step(ledger: Ledger, snapshot: Snapshot, request: Request, release: Release, now: float) -> Transition:
    """Ends the step that is named, if it is the one at hand. Of several candidates the one that is named goes on."""
    if request.step != str(release.step + 1) or release.step >= len(release.steps):
        return _ignored(ledger, request, f"the step at hand is {release.candidate}/{release.step + 1}")
    if not fully_ready(snapshot, release):
        return _ignored(ledger, request, "not every pod of the candidate is ready")
    if isinstance(release.step_at_hand, Compare):
        went_on = Conclusion(release.step, "Undecided", OnCompared.PROMOTE, "A person went on", release.candidate)
        release = release if release.concluded else replace(release, conclusion=went_on)
    message = f"Step {step_label(release)} of {snapshot.label(request.revision)} is skipped"
    ledger = replace(ledger, release=at_step(release, release.step + 1))
    ledger, events = go_on_alone(ledger, snapshot, now, "a person went on with it")
    return ledger, (*events, Event(Reason.REQUEST_DONE, message))


def _approve(ledger: Ledger, snapshot: Snapshot, request: Request, now: float) -> Transition:
    """Lets the step that waits for it go on. Names the step, so that no approval is of another one than was meant."""
    if not _names_candidate(ledger, request):
        return _ignored(ledger, request, _candidate_is(ledger))
    release = ledger.release
    assert release is not None
    if not awaits_approval(release):
        return _ignored(ledger, request, f"step {step_label(release)} waits for no approval")
    if request.step != str(release.step + 1):
        return _ignored(ledger, request, f"the step that waits is {release.candidate}/{release.step + 1}")
    message = f"Step {step_label(release)} of {snapshot.label(request.revision)} is approved"
    return replace(ledger, release=replace(release, approved_step=release.step)), (Event(Reason.REQUEST_DONE, message),)


def _retry(ledger: Ledger, snapshot: Snapshot, request: Request, now: float) -> Transition:
    """Takes a refusal or an undo back: the revision is released anew, with the policy's steps as they are now."""
    undone = ledger.pin is not None and ledger.pin.instead_of == request.revision
    if ledger.pin and not undone and request.revision in snapshot.asked_for:
        advice = f"`retry {ledger.pin.instead_of}` takes that back"
        return _ignored(ledger, request, f"{ledger.pin.revision} serves instead of what the spec asks for; {advice}")
    if ledger.refusal(request.revision) is None and not undone:
        return _ignored(ledger, request, "it is neither refused nor undone")
    when = "" if ledger.release is None else " when the release that moves has ended"
    message = f"{snapshot.label(request.revision)} is tried again{when}"
    if undone:
        ledger = _without_winner(ledger, snapshot, now)
    kept = tuple(refused for refused in ledger.refused if refused.revision != request.revision)
    return replace(ledger, refused=kept, pin=None if undone else ledger.pin), (Event(Reason.REQUEST_DONE, message),)


def _undo(ledger: Ledger, snapshot: Snapshot, request: Request, now: float) -> Transition:
    """Goes back to a revision that served before, as soon as it is ready, until the spec asks for another revision than
    it does now."""
    revision = request.revision
    instead_of = ledger.pin.instead_of if ledger.pin else _asked_for(snapshot)
    if revision not in snapshot.revisions:
        kept = ", ".join(sorted(snapshot.revisions, key=lambda name: snapshot.revisions[name].created, reverse=True))
        return _ignored(ledger, request, f"there is no such revision; there are {kept}")
    if not instead_of:
        return _ignored(ledger, request, "what the spec asks for is not known: set the version that it should serve")
    came_back = ledger.pin is not None and revision in ledger.served and revision != ledger.stable
    if revision == instead_of and not came_back:
        advice = f"; the request `retry {revision}` takes the undo back" if ledger.pin else ""
        return _ignored(ledger, request, f"it is what the spec asks for{advice}")
    if ledger.refusal(revision):
        return _ignored(ledger, request, "it was refused; retry takes that back")
    promoted = {ended.revision for ended in ledger.history if ended.outcome == Reason.PROMOTED}
    if revision not in {*ledger.served, *promoted, ledger.stable}:
        return _ignored(
            ledger, request, "it has never been stable, so it is no way back: set its version to release it"
        )
    if revision == ledger.stable and ledger.release is None:
        return _ignored(ledger, request, "it serves already")
    events: tuple[Event, ...] = ()
    if ledger.release and revision not in ledger.release.candidates:
        ledger, events = cancel(ledger, ledger.release, revision, snapshot, now)
    if ledger.pin and ledger.pin.revision != revision:
        ledger = _without_winner(ledger, snapshot, now)
    left = ledger.pin.revision if ledger.pin and revision == instead_of else instead_of
    message = f"{snapshot.label(revision)} is to serve instead of {snapshot.label(left)}"
    done = Event(Reason.REQUEST_DONE, f"{message}, until the spec asks for another revision")
    return replace(ledger, pin=Pin(revision, instead_of)), (*events, done)


def _without_winner(ledger: Ledger, snapshot: Snapshot, now: float) -> Ledger:
    """A variant that won an A/B test and that a person leaves again is not tried again by itself."""
    if ledger.pin is None or ledger.pin.revision not in map(snapshot.variant, snapshot.variants):
        return ledger
    why = "A person went back from it"
    refused = Refused(ledger.pin.revision, Reason.ABORTED, Reason.ABORTED, why, now)
    return ledger.with_refused(refused, snapshot.asked_for)


def _asked_for(snapshot: Snapshot) -> str:
    """The revision that the spec asks for, or did before the registry went away; empty where that is not known."""
    if snapshot.asked_revision:
        return snapshot.asked_revision.name
    return str((snapshot.program.status.get("wanted") or {}).get("revision", ""))


def _refresh(ledger: Ledger, snapshot: Snapshot, request: Request, now: float) -> Transition:
    """Makes the desired revision anew: with the operator's images and registries as they are now, and what its uri
    means now. It is released like any other."""
    desired = snapshot.asked_revision
    if desired is None or desired.name != request.revision:
        return _ignored(ledger, request, f"what the spec asks for is {desired.name if desired else 'not known'}")
    if ledger.pin:
        return _ignored(ledger, request, f"it is undone; the request `retry {request.revision}` takes that back")
    message = f"{snapshot.label(request.revision)} is made anew"
    refreshes = {**ledger.refreshes, desired.first_name: desired.refreshed + 1}
    return replace(ledger, refreshes=refreshes), (Event(Reason.REQUEST_DONE, message),)


def refreshes_of(ledger: Ledger, revisions: Mapping[str, Revision]) -> Mapping[str, int]:
    """By first name, which making of a revision counts: as revisions say, or as was asked for and is not made yet."""
    found = dict(ledger.refreshes)
    for each in revisions.values():
        found[each.first_name] = max(found.get(each.first_name, 0), each.refreshed)
    return found


def _names_candidate(ledger: Ledger, request: Request) -> bool:
    return ledger.release is not None and ledger.release.candidate == request.revision


def _candidate_is(ledger: Ledger) -> str:
    names = ledger.release.candidates if ledger.release else ("none",)
    return f"the candidate is {' or '.join(names)}"


def _ignored(ledger: Ledger, request: Request, why: str) -> Transition:
    named = f"{request.revision}/{request.step}" if request.step else request.revision
    message = f"{request.verb} {named} does nothing: {why}"
    return ledger, (Event(Reason.REQUEST_IGNORED, message, warning=True),)


VERBS: Mapping[str, Callable[[Ledger, Snapshot, Request, float], Transition]] = {
    "abort": _abort,
    "approve": _approve,
    "promote": _promote,
    "retry": _retry,
    "refresh": _refresh,
    "undo": _undo,
}
