"""How far a release is: within its step, and whether what its steps drew has been answered, so that nothing hangs into
stable."""

from __future__ import annotations

from dataclasses import replace

from dspy_operator.api.rollout import OnCompared
from dspy_operator.domain.analysis.comparison import compare
from dspy_operator.domain.analysis.judge import LEAST_USERS
from dspy_operator.domain.analysis.means import is_measure
from dspy_operator.domain.analysis.streams import BOUNDS_ANSWERS
from dspy_operator.domain.ledger import Ledger, Release
from dspy_operator.domain.readiness import refusal_of, routes_acked
from dspy_operator.domain.release.in_force import analysis_of
from dspy_operator.domain.snapshot import Snapshot
from dspy_operator.domain.steps import Compare, PauseApproval, Progress

WAITING_SECONDS = 4.0
"""How often a release has a pass that nothing else asks for: deadlines and causes that pass show by time. No longer
than a clock's longest tick."""

SHORTEST_SECONDS = 0.05


def progress_of(ledger: Ledger, release: Release, snapshot: Snapshot) -> Progress:
    """How far the step at hand is."""
    step = release.step_at_hand
    routed = snapshot.routes is not None and snapshot.routes.backend(release.candidate) == release.backend
    acked = routes_acked(snapshot, ledger.serial, release.step_seconds)
    return Progress(
        elapsed_seconds=release.step_seconds,
        candidate_requests=min(each.evidence.candidate.requests for each in release.each)
        - release.step_started_requests,
        weight_bp=release.weight_bp,
        routes_acked=routed and acked,
        approval=f"approve {release.candidate}/{release.step + 1}",
        approved=release.approved_step == release.step,
        smoke_test=snapshot.smoke_test.words if snapshot.smoke_test else "",
        smoke_test_passed=release.passed_step == release.step,
        preview=snapshot.preview_url,
        comparison=_comparison(release, step, snapshot) if isinstance(step, Compare) else "",
        concluded=str(release.conclusion.action) if release.conclusion else "",
        refusal=refusal_of(snapshot.gateway, snapshot.program.uid),
    )


def compared_users(release: Release) -> int:
    """How many users can be compared, on all sides."""
    grown = [each.evidence.users.compared for each in release.each]
    of_candidates = sum(group.users for groups in grown for group in groups if group.of_candidate)
    return of_candidates + max(sum(group.users for group in groups if not group.of_candidate) for groups in grown)


def _comparison(release: Release, step: Compare, snapshot: Snapshot) -> str:
    """How a comparison stands, or how it ended."""
    if release.conclusion:
        return release.conclusion.message
    users = compared_users(release)
    grown = f"{users}{f' of {step.users}' if step.users else ''} users"
    if users < LEAST_USERS:
        seen = release.evidence.users.number
        return f"{grown} ({seen} seen; {LEAST_USERS} must have been there for {step.exposure_seconds:.0f} s)"
    return f"{grown}; {'; '.join(_stands(each, step, snapshot) for each in release.each)}"


def _stands(release: Release, step: Compare, snapshot: Snapshot) -> str:
    compared = compare(release.evidence, analysis_of(release, snapshot), step.stream, step.alpha)
    words = compared.message or _unknown(step.stream)
    return f"{snapshot.label(release.candidate)}: {words}" if release.others else words


def _unknown(stream: str) -> str:
    """Why there is nothing to compare, though there are users."""
    if is_measure(stream):
        return f"answers to users of one version, or both, have told no {stream} yet"
    return f"what is slow is not known before stable has answered {BOUNDS_ANSWERS} requests"


def next_pass_seconds(ledger: Ledger, release: Release, snapshot: Snapshot) -> float:
    """In how many seconds the release may go on though no news has come."""
    if release.blocked_seconds or not release.ready_once or release.step >= len(release.steps):
        return WAITING_SECONDS
    if (awaits_approval(release) or awaits_decision(release)) and release.paused is None:
        return SHORTEST_SECONDS  # to ask for it
    ends_in = release.steps[release.step].may_end_in_seconds(progress_of(ledger, release, snapshot))
    return min(max(ends_in, SHORTEST_SECONDS), WAITING_SECONDS)


def at_step(release: Release, step: int) -> Release:
    """The release at the beginning of a step. Copies end with the step that made them: they are no traffic."""
    if release.mirrors and step != release.step:
        release = replace(release, weight_bp=0, sized_bp=0)
    return replace(release, step=step, step_seconds=0.0, step_started_requests=release.evidence.candidate.requests)


def awaits_approval(release: Release) -> bool:
    """True while the step at hand waits for a person."""
    return isinstance(release.step_at_hand, PauseApproval) and release.approved_step != release.step


def awaits_decision(release: Release) -> bool:
    """True while a comparison has ended and a person is to say what becomes of the candidate."""
    conclusion = release.conclusion
    return conclusion is not None and conclusion.step == release.step and conclusion.action is OnCompared.HOLD


def awaits_answers(release: Release) -> bool:
    """True while the release waits for requests to end: to be refused or to go on once lowered, or to be promoted."""
    return any(each.lowered for each in release.each) or release.step >= len(release.steps)


def copies_are_answered(release: Release) -> bool:
    """True when every copy has been answered, one way or the other: what they show is known before a client depends
    on it."""
    return all(table.settled for table in release.evidence.tables.values() if table.total.copied)


def steps_are_answered(release: Release) -> bool:
    """True when every request that was drawn before the steps ended has been answered, one way or the other."""
    drawn = release.drawn_in_steps
    return drawn is not None and all(
        table.settled or table.number > drawn.get(table.series, 0) for table in release.evidence.tables.values()
    )
