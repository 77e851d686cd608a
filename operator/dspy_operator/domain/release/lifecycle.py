"""The beginnings and ends of releases: first revision, start, cancel, promote, refuse."""

from __future__ import annotations

from dataclasses import replace

from dspy_contract.routes import Pin
from dspy_operator.api.reasons import Reason
from dspy_operator.api.rollout import Analysis, CanaryReplicas, StrategyType
from dspy_operator.domain import strategies
from dspy_operator.domain.analysis.streams import with_fallbacks
from dspy_operator.domain.ledger import CandidateState, Ledger, Refused, Release
from dspy_operator.domain.readiness import can_serve
from dspy_operator.domain.release.messages import step_label
from dspy_operator.domain.snapshot import DesiredRevision, Problem, Snapshot
from dspy_operator.domain.transition import Event, Transition


def adopt_first_revision(ledger: Ledger, snapshot: Snapshot, now: float) -> Transition:
    """The first revision needs no release, and neither does one that replaces a stable that never answered."""
    if ledger.stable and not ledger.stable_proven and can_serve(snapshot, ledger.stable):
        message = f"{snapshot.label(ledger.stable)} serves"
        return replace(ledger.with_stable(ledger.stable), stable_proven=True), (Event(Reason.FIRST_SERVING, message),)
    desired = snapshot.desired_revision
    if desired is None or desired.name == ledger.stable or ledger.stable_proven or snapshot.conflict:
        return ledger, ()
    if ledger.stable:
        ledger = ledger.with_draining(ledger.stable)
    message = f"{snapshot.label(desired.name)} is the first revision and serves when it is ready"
    adopted = replace(ledger, stable=desired.name, release=None).without_draining(desired.name)
    return adopted, (Event(Reason.FIRST_REVISION, message),)


def cancel_superseded(ledger: Ledger, snapshot: Snapshot, now: float) -> Transition:
    """A candidate that is no longer desired goes, at once."""
    release, desired = ledger.release, snapshot.desired_revision
    if release is None or desired is None:
        return ledger, ()
    if desired.name == (release.asked_for or release.candidate):
        return replace(ledger, release=replace(release, generation=snapshot.program.generation)), ()
    return cancel(ledger, release, desired.name, snapshot, now)


def drop_unmade(ledger: Ledger, snapshot: Snapshot, now: float) -> Transition:
    """A variant that was changed before anything of it was made cannot come any more."""
    asked = (snapshot.asked, *snapshot.variants.values())
    if ledger.release is None or not all(isinstance(each, DesiredRevision) for each in asked):
        return ledger, ()
    events: tuple[Event, ...] = ()
    for candidate in ledger.release.candidates:
        if ledger.release and snapshot.revision(candidate) is None:
            message = f"{candidate} was changed before anything of it was made"
            ledger = replace(ledger, release=ledger.release.about(candidate).without())
            ledger = ledger.ended(candidate, Reason.CANCELLED, message, now)
            events += (Event(Reason.RELEASE_CANCELLED, message),)
    return ledger, events


def cancel(ledger: Ledger, release: Release, desired: str, snapshot: Snapshot, now: float) -> Transition:
    """The candidates lose their weight, since another revision is wanted; they may be released again."""
    instead_of = " and ".join(map(snapshot.label, release.candidates))
    message = f"{snapshot.label(desired)} is wanted instead of {instead_of}"
    ledger = replace(ledger, release=None)
    for candidate in release.candidates:
        ledger = ledger.with_draining(candidate)
        ledger = ledger.ended(candidate, Reason.CANCELLED, message, now, snapshot.version(candidate))
    return ledger, (Event(Reason.RELEASE_CANCELLED, message),)


def end_undo(ledger: Ledger, snapshot: Snapshot, now: float) -> Transition:
    """What was undone stays so until the spec asks for another revision than it did then."""
    if ledger.pin is None or snapshot.pin is not None:
        return ledger, ()
    asked = snapshot.asked_revision
    assert asked is not None
    message = f"The spec asks for {snapshot.label(asked.name)}: what was undone for {ledger.pin.revision} is over"
    return replace(ledger, pin=None), (Event(Reason.UNDO_ENDED, message),)


def start_release(ledger: Ledger, snapshot: Snapshot, now: float) -> Transition:
    """A new revision becomes the candidate, with the policy's steps as they are now; so do the variants that the policy
    would have compared besides."""
    desired, policy = snapshot.desired_revision, snapshot.policy
    if ledger.release or desired is None or not ledger.stable_proven:
        return ledger, ()
    candidates = _candidates(ledger, snapshot, desired.name)
    if not candidates:
        return ledger, ()
    first, *others = candidates
    names = [each.candidate for each in candidates]
    if ledger.undoes(desired.name):
        policy = None
    elif policy is None and snapshot.program.spec.rollout_policy == "Required":
        return ledger, ()
    if snapshot.conflict or (policy and policy.unreadable):
        return ledger, ()
    steps = strategies.steps_of(policy.spec.strategy, len(candidates)) if policy else ()
    analysis = policy.spec.analysis if policy else Analysis()
    release = Release(
        first.candidate,
        place=first.place,
        variant=first.variant,
        others=tuple(others),
        asked_for=desired.name,
        id=ledger.releases + 1,
        started_at=now,
        generation=snapshot.program.generation,
        policy=policy.name if policy else None,
        false_rollback_percent=analysis.false_rollback_percent / len(candidates),
        previewed=policy is not None and policy.spec.strategy.type is StrategyType.BLUE_GREEN,
        streams=with_fallbacks(analysis.streams),
        users=strategies.users_of(policy.spec.strategy, snapshot.program.uid, ledger.releases + 1, names)
        if policy
        else None,
        steps=steps,
        sized_with_weight=policy is not None and policy.spec.strategy.canary.replicas is CanaryReplicas.WITH_WEIGHT,
        crashed_before=tuple(sorted(name for each in snapshot.workloads.values() for name in each.crashed)),
    )
    why = "a person asked for it" if ledger.undoes(desired.name) else "there is no rollout policy"
    how = f"in {len(steps)} step{'s' * (len(steps) != 1)}" if policy else f"when it is ready ({why})"
    message = f"{' or '.join(map(snapshot.label, names))} takes over from {snapshot.label(ledger.stable)} {how}"
    ledger = replace(ledger, release=release, releases=release.id)
    for name in names:
        ledger = ledger.without_draining(name)
    return ledger, (Event(Reason.RELEASE_STARTED, message),)


def _candidates(ledger: Ledger, snapshot: Snapshot, desired: str) -> list[CandidateState]:
    """What may be released now: what is to serve, and the policy's variants, but for what serves already or was
    refused. None while a variant is not known."""
    variants = {} if ledger.undoes(desired) else snapshot.variants
    if any(isinstance(each, Problem) for each in variants.values()):
        return []
    asked = {"": desired} | {name: str(snapshot.variant(name)) for name in variants}
    tried = dict.fromkeys(name for name in asked.values() if name != ledger.stable and not ledger.refusal(name))
    named = {revision: name for name, revision in reversed(asked.items())}
    return [CandidateState(revision, place, named[revision]) for place, revision in enumerate(tried)]


def refuse(ledger: Ledger, snapshot: Snapshot, now: float, outcome: str, reason: str, message: str) -> Transition:
    """The candidate loses its weight and is not tried again until a person asks for it (retry)."""
    assert ledger.release is not None
    release, candidate = ledger.release, ledger.release.candidate
    evidence = release.evidence
    refused = Refused(
        candidate, outcome, reason, message, now, step_label(release), evidence.stable, evidence.candidate
    )
    pin = None if ledger.undoes(candidate) else ledger.pin
    ledger = ledger.with_refused(refused, snapshot.asked_for).with_draining(candidate)
    ledger = replace(ledger, release=_left(release), pin=pin)
    event = Event(outcome, f"{snapshot.label(candidate)} is refused: {message}", warning=True)
    return ledger.ended(candidate, outcome, message, now, snapshot.version(candidate)), (event,)


def _left(release: Release) -> Release | None:
    """The release without the candidate that it is about, and without what was concluded of that."""
    left = release.without()
    concluded = left and left.conclusion and left.conclusion.candidate == release.candidate
    return replace(left, conclusion=None) if left and concluded else left


def promote(ledger: Ledger, snapshot: Snapshot, now: float, message: str) -> Transition:
    """The candidate becomes stable, and what was stable drains, with all other candidates. A variant serves instead of
    what the spec asks for, until that asks for something else."""
    ledger, events = go_on_alone(ledger, snapshot, now, message)
    assert ledger.release is not None
    assert ledger.stable is not None
    candidate, previous, asked_for = ledger.release.candidate, ledger.stable, ledger.release.asked_for
    pin = Pin(candidate, asked_for) if ledger.release.variant else ledger.pin
    pin = None if pin and pin.revision == pin.instead_of else pin
    ledger = replace(ledger.with_stable(candidate), stable_proven=True, release=None, pin=pin)
    ledger = ledger.with_draining(previous).ended(candidate, Reason.PROMOTED, message, now, snapshot.version(candidate))
    return ledger, (*events, Event(Reason.PROMOTED, f"{snapshot.label(candidate)} is stable: {message}"))


def go_on_alone(ledger: Ledger, snapshot: Snapshot, now: float, message: str) -> Transition:
    """Of several candidates the one that it is about is left; the others are refused, since this one was chosen."""
    assert ledger.release is not None
    chosen = ledger.release.candidate
    events: tuple[Event, ...] = ()
    for candidate in ledger.release.candidates:
        if candidate != chosen and ledger.release is not None:
            ledger = replace(ledger, release=ledger.release.about(candidate))
            why = f"{snapshot.label(chosen)} was chosen: {message}"
            ledger, told = refuse(ledger, snapshot, now, Reason.ROLLED_BACK, Reason.COMPARISON_LOST, why)
            events += told
    return ledger, events
