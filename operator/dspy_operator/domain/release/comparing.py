"""The end of a comparison: what its result means for the candidate."""

from __future__ import annotations

from dataclasses import replace

from dspy_operator.api.reasons import Reason
from dspy_operator.api.rollout import OnCompared
from dspy_operator.domain.analysis.comparison import Result, compare
from dspy_operator.domain.ledger import Conclusion, Ledger, Release
from dspy_operator.domain.release.blocking import blocking_reason
from dspy_operator.domain.release.in_force import analysis_of
from dspy_operator.domain.release.lifecycle import refuse
from dspy_operator.domain.release.progress import progress_of
from dspy_operator.domain.snapshot import Snapshot
from dspy_operator.domain.steps import Compare
from dspy_operator.domain.transition import Event, Transition


def conclude_comparison(ledger: Ledger, snapshot: Snapshot, now: float) -> Transition:
    """A comparison that is decided, or over, is concluded once."""
    release = ledger.release
    step = _at_hand(release)
    if release is None or step is None or not release.evidence.users.complete or blocking_reason(ledger, snapshot):
        return ledger, ()
    compared = compare(release.evidence, analysis_of(release, snapshot), step.stream, step.alpha)
    result = compared.result
    if result is Result.UNDECIDED:
        if not step.is_over(progress_of(ledger, release, snapshot), compared.grown):
            return ledger, ()
        result = Result.TIE
    action = {Result.WIN: step.on_win, Result.LOSS: step.on_loss, Result.TIE: step.on_tie}[result]
    message = f"{result} on {step.stream}: {compared.message}"
    release = replace(release, conclusion=Conclusion(release.step, str(result), action, message))
    ledger = replace(ledger, release=release)
    if action is OnCompared.ROLLBACK:
        reason = Reason.COMPARISON_LOST if result is Result.LOSS else Reason.COMPARED
        return refuse(ledger, snapshot, now, Reason.ROLLED_BACK, reason, message)
    return ledger, (Event(Reason.COMPARED, message),)


def _at_hand(release: Release | None) -> Compare | None:
    if release is None or not release.ready_once or release.conclusion:
        return None
    return release.step_at_hand if isinstance(release.step_at_hand, Compare) else None
