"""What of a gateway pod's answer somebody waits for; the rest shows in due time. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from dspy_contract.outcomes import Outcome
from dspy_contract.state import ProgramState

_UNREMARKABLE = frozenset({Outcome.OK, Outcome.CANCELLED})


@dataclass(frozen=True, slots=True)
class News:
    """`bad_answers`: there are more of them, which the guard looks at. `obeyed`: routes are obeyed or refused, a
    listener is open, or effective weights changed. `answered`: every request that some draw table drew has ended."""

    bad_answers: bool
    obeyed: bool
    answered: bool


def news_of(before: ProgramState | None, after: ProgramState) -> News:
    """What is new of a program in one gateway pod since its last answer; None before the first."""
    if before is None:
        return News(bad_answers=True, obeyed=True, answered=True)
    return News(
        bad_answers=_bad_answers(after) > _bad_answers(before),
        obeyed=_obeyed(after) != _obeyed(before),
        answered=bool(_settled(after) - _settled(before)),
    )


def _bad_answers(state: ProgramState) -> int:
    """Those that are flagged among them: only flags that are judged are counted."""
    bad = (counts.answered - counts.ended_as(_UNREMARKABLE) for counts in state.totals.values())
    return sum(bad) + sum(sum(counts.flags.values()) for counts in state.totals.values())


def _obeyed(state: ProgramState) -> tuple[object, ...]:
    return state.serial, state.content, state.listening, state.refusal, state.effective


def _settled(state: ProgramState) -> frozenset[int]:
    return frozenset(table.number for table in state.tables if table.settled)
