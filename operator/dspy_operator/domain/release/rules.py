"""The rules by which a release moves, in their order, which is the priority.

Each is a pure step from ledger to ledger with the events that it emits. Going back (a cancelled, refused or aborted
candidate) comes before going on, and never waits for the candidate. Every rule leaves the ledger alone where it has
nothing to say, so a second pass changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dspy_operator.domain.ledger import Ledger
from dspy_operator.domain.release.blocking import blocking_reason, halve_doubted, update_pause
from dspy_operator.domain.release.clocks import advance_clocks
from dspy_operator.domain.release.comparing import conclude_comparison
from dspy_operator.domain.release.draining import retire_drained
from dspy_operator.domain.release.gates import advance_steps, note_ready, promote_when_gates_open
from dspy_operator.domain.release.judging import collect_evidence, refuse_failed_candidate
from dspy_operator.domain.release.lifecycle import (
    adopt_first_revision,
    cancel_superseded,
    drop_unmade,
    end_undo,
    start_release,
)
from dspy_operator.domain.release.lowering import answer_lowered, lower_candidate, settle_lowered
from dspy_operator.domain.release.messages import describe_step
from dspy_operator.domain.release.smoke import take_smoke_test
from dspy_operator.domain.requests import handle_request
from dspy_operator.domain.snapshot import Snapshot
from dspy_operator.domain.transition import Event, Transition

Rule = Callable[[Ledger, Snapshot, float], Transition]


def for_each(rule: Rule) -> Rule:
    """A rule about one candidate, for each that the release has."""

    def for_all(ledger: Ledger, snapshot: Snapshot, now: float) -> Transition:
        events: tuple[Event, ...] = ()
        for candidate in ledger.release.candidates if ledger.release else ():
            if ledger.release and candidate in ledger.release.candidates:
                ledger = replace(ledger, release=ledger.release.about(candidate))
                ledger, told = rule(ledger, snapshot, now)
                events += told
            if ledger.release:
                ledger = replace(ledger, release=ledger.release.about_first())
        return ledger, events

    return for_all


RULES: tuple[Rule, ...] = (
    advance_clocks,
    end_undo,
    adopt_first_revision,
    cancel_superseded,
    drop_unmade,
    start_release,
    for_each(collect_evidence),
    answer_lowered,
    for_each(refuse_failed_candidate),
    for_each(lower_candidate),
    take_smoke_test,
    handle_request,
    for_each(settle_lowered),
    for_each(halve_doubted),
    for_each(note_ready),
    conclude_comparison,
    update_pause,
    advance_steps,
    promote_when_gates_open,
    retire_drained,
)


def advance(ledger: Ledger, snapshot: Snapshot, now: float) -> Transition:
    """The ledger after every rule in order, and all events."""
    events: tuple[Event, ...] = ()
    for rule in RULES:
        ledger, emitted = rule(ledger, snapshot, now)
        events += emitted
    return ledger, events


def current_activity(ledger: Ledger, snapshot: Snapshot) -> str:
    """One sentence: what the release does or waits for now. Empty without a release."""
    release = ledger.release
    if release is None:
        return ""
    if release.paused:
        return release.paused.message
    blocked = blocking_reason(ledger, snapshot)
    return blocked.message if blocked else describe_step(ledger, release, snapshot)
