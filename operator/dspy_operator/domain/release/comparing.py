"""The end of a comparison: what its result means for the candidates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from dspy_operator.api.reasons import Reason
from dspy_operator.api.rollout import OnCompared
from dspy_operator.domain.analysis.comparison import Compared, Result, compare
from dspy_operator.domain.ledger import Conclusion, Ledger, Release
from dspy_operator.domain.release.blocking import blocking_reason
from dspy_operator.domain.release.in_force import analysis_of
from dspy_operator.domain.release.lifecycle import go_on_alone, refuse
from dspy_operator.domain.release.progress import compared_users, progress_of
from dspy_operator.domain.snapshot import Snapshot
from dspy_operator.domain.steps import Compare
from dspy_operator.domain.transition import Event, Transition


def conclude_comparison(ledger: Ledger, snapshot: Snapshot, now: float) -> Transition:
    """A comparison that is decided, or over, is concluded once. Of several candidates one that has lost goes at once,
    and the best of those that have won is the winner, once there is nobody left who might be better."""
    release = ledger.release
    step = _at_hand(release)
    if release is None or step is None or blocking_reason(ledger, snapshot):
        return ledger, ()
    if not all(each.evidence.users.complete for each in release.each):
        return ledger, ()
    analysis = analysis_of(release, snapshot)
    compared = {each.candidate: compare(each.evidence, analysis, step.stream, step.alpha) for each in release.each}
    over = step.is_over(progress_of(ledger, release, snapshot), compared_users(release))
    lost = {name: each for name, each in compared.items() if each.result is Result.LOSS}
    events: tuple[Event, ...] = ()
    if step.on_loss is OnCompared.ROLLBACK and 0 < len(lost) < len(compared):
        ledger, events = _refused(ledger, snapshot, now, step, lost)
        compared = {name: each for name, each in compared.items() if name not in lost}
    if not over and any(each.result is Result.UNDECIDED for each in compared.values()):
        return ledger, events
    ledger, concluded = _concluded(ledger, snapshot, now, step, compared)
    return ledger, (*events, *concluded)


def _concluded(
    ledger: Ledger, snapshot: Snapshot, now: float, step: Compare, compared: Mapping[str, Compared]
) -> Transition:
    assert ledger.release is not None
    chosen, result = _chosen(compared)
    action = {Result.WIN: step.on_win, Result.LOSS: step.on_loss, Result.TIE: step.on_tie}[result]
    if action is OnCompared.ROLLBACK:
        return _refused(ledger, snapshot, now, step, compared)
    message = _message(result, step, compared[chosen])
    release = ledger.release.about(chosen)
    conclusion = Conclusion(release.step, str(result), action, message, chosen)
    ledger = replace(ledger, release=replace(release, conclusion=conclusion))
    events: tuple[Event, ...] = ()
    if action is OnCompared.PROMOTE:
        ledger, events = go_on_alone(ledger, snapshot, now, message)
    assert ledger.release is not None
    return replace(ledger, release=ledger.release.about_first()), (*events, Event(Reason.COMPARED, message))


def _chosen(compared: Mapping[str, Compared]) -> tuple[str, Result]:
    """The best of those that won; the first that has not lost, where none did; else the first."""
    won = [name for name, each in compared.items() if each.result is Result.WIN]
    if won:
        return max(won, key=lambda name: compared[name].gain), Result.WIN
    undecided = [name for name, each in compared.items() if each.result is Result.UNDECIDED]
    return (undecided[0], Result.TIE) if undecided else (next(iter(compared)), Result.LOSS)


def _refused(
    ledger: Ledger, snapshot: Snapshot, now: float, step: Compare, compared: Mapping[str, Compared]
) -> Transition:
    """Without these candidates."""
    events: tuple[Event, ...] = ()
    for name, each in compared.items():
        assert ledger.release is not None
        lost = each.result is Result.LOSS
        reason = Reason.COMPARISON_LOST if lost else Reason.COMPARED
        message = _message(each.result, step, each)
        ledger = replace(ledger, release=ledger.release.about(name))
        ledger, told = refuse(ledger, snapshot, now, Reason.ROLLED_BACK, reason, message)
        events += told
    return ledger, events


def _message(result: Result, step: Compare, compared: Compared) -> str:
    shown = Result.TIE if result is Result.UNDECIDED else result
    return f"{shown} on {step.stream}: {compared.message}"


def _at_hand(release: Release | None) -> Compare | None:
    if release is None or release.conclusion or not all(each.ready_once for each in release.each):
        return None
    return release.step_at_hand if isinstance(release.step_at_hand, Compare) else None
