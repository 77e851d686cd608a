"""The smoke test of a release: which one is at hand, and what its result means."""

from __future__ import annotations

from dataclasses import replace

from dspy_operator.api.reasons import Reason
from dspy_operator.domain.ledger import Ledger, Release
from dspy_operator.domain.release.lifecycle import refuse
from dspy_operator.domain.snapshot import Snapshot
from dspy_operator.domain.steps import SmokeTest
from dspy_operator.domain.transition import Event, Transition


def smoke_test_at_hand(ledger: Ledger | None) -> tuple[Release, SmokeTest] | None:
    """The release and its smoke test, while the step at hand is one that has not passed."""
    release = ledger.release if ledger else None
    if release is None or not release.ready_once:
        return None
    step = release.step_at_hand
    return (release, step) if isinstance(step, SmokeTest) and release.passed_step != release.step else None


def take_smoke_test(ledger: Ledger, snapshot: Snapshot, now: float) -> Transition:
    """A candidate that does not answer as it should is refused before it has any traffic."""
    at_hand, report = smoke_test_at_hand(ledger), snapshot.smoke_test
    if at_hand is None or report is None or report.failures is None:
        return ledger, ()
    release, step = at_hand
    if (report.release, report.step) != (release.id, release.step):
        return ledger, ()
    if report.failures > step.max_failures:
        return refuse(
            ledger, snapshot, now, Reason.REFUSED, Reason.SMOKE_TEST_FAILED, f"The smoke test failed: {report.words}"
        )
    event = Event(Reason.SMOKE_TEST_PASSED, f"The smoke test passed: {report.words}")
    return replace(ledger, release=replace(release, passed_step=release.step)), (event,)
