"""The end of a comparison: what its result means for the candidates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from dspy_operator.api.reasons import Reason
from dspy_operator.api.rollout import OnCompared
from dspy_operator.domain.analysis.comparison import Result, compare
from dspy_operator.domain.ledger import Conclusion, Ledger, Release, Won
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
    over = step.is_over(progress_of(ledger, release, snapshot), compared_users(release))
    standings = {each.candidate: _standing(each, step, snapshot) for each in release.each}
    ledger = replace(ledger, release=release.with_each(lambda each: _noted(each, standings[each.candidate])))
    lost = {name: each for name, each in standings.items() if each.result is Result.LOSS}
    events: tuple[Event, ...] = ()
    if step.on_loss is OnCompared.ROLLBACK and 0 < len(lost) < len(standings):
        ledger, events = _refused(ledger, snapshot, now, lost)
        standings = {name: each for name, each in standings.items() if name not in lost}
    if not over and any(each.result is Result.TIE for each in standings.values()):
        return ledger, events
    ledger, concluded = _concluded(ledger, snapshot, now, step, standings)
    return ledger, (*events, *concluded)


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of a candidate beside stable, in words, and by how much it is better. Tie: nothing yet."""

    result: Result
    message: str
    gain: float


def _standing(release: Release, step: Compare, snapshot: Snapshot) -> Standing:
    """One that has won stays so, unless it loses: its interval was true when it was looked at."""
    compared = compare(release.evidence, analysis_of(release, snapshot), step.stream, step.alpha)
    result = Result.TIE if compared.result is Result.UNDECIDED else compared.result
    if result is Result.TIE and release.won:
        return Standing(Result.WIN, release.won.message, release.won.gain)
    return Standing(result, f"{result} on {step.stream}: {compared.message}", compared.gain)


def _noted(release: Release, standing: Standing) -> Release:
    """The release with a win of its candidate kept, for the users by whom it won are not."""
    if standing.result is not Result.WIN or release.won or not release.others:
        return release
    return replace(release, won=Won(standing.message, standing.gain))


def _concluded(
    ledger: Ledger, snapshot: Snapshot, now: float, step: Compare, standings: Mapping[str, Standing]
) -> Transition:
    assert ledger.release is not None
    chosen, result = _chosen(standings)
    action = {Result.WIN: step.on_win, Result.LOSS: step.on_loss, Result.TIE: step.on_tie}[result]
    if action is OnCompared.ROLLBACK:
        return _refused(ledger, snapshot, now, standings)
    message = standings[chosen].message
    release = ledger.release.about(chosen)
    conclusion = Conclusion(release.step, str(result), action, message, chosen)
    ledger = replace(ledger, release=replace(release, conclusion=conclusion))
    events: tuple[Event, ...] = ()
    if action is OnCompared.PROMOTE:
        ledger, events = go_on_alone(ledger, snapshot, now, message)
    assert ledger.release is not None
    return replace(ledger, release=ledger.release.about_first()), (*events, Event(Reason.COMPARED, message))


def _chosen(standings: Mapping[str, Standing]) -> tuple[str, Result]:
    """The best of those that won; the first that has not lost, where none did; else the first."""
    won = [name for name, each in standings.items() if each.result is Result.WIN]
    if won:
        return max(won, key=lambda name: standings[name].gain), Result.WIN
    tied = [name for name, each in standings.items() if each.result is Result.TIE]
    return (tied[0], Result.TIE) if tied else (next(iter(standings)), Result.LOSS)


def _refused(ledger: Ledger, snapshot: Snapshot, now: float, standings: Mapping[str, Standing]) -> Transition:
    """Without these candidates."""
    events: tuple[Event, ...] = ()
    for name, each in standings.items():
        assert ledger.release is not None
        reason = Reason.COMPARISON_LOST if each.result is Result.LOSS else Reason.COMPARED
        ledger = replace(ledger, release=ledger.release.about(name))
        ledger, told = refuse(ledger, snapshot, now, Reason.ROLLED_BACK, reason, each.message)
        events += told
    return ledger, events


def _at_hand(release: Release | None) -> Compare | None:
    if release is None or release.conclusion or not all(each.ready_once for each in release.each):
        return None
    return release.step_at_hand if isinstance(release.step_at_hand, Compare) else None
