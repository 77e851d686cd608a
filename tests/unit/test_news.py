"""What of a gateway pod's answer wakes somebody."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dspy_contract.outcomes import Outcome
from dspy_contract.state import Counts, DrawTable, ProgramState
from dspy_operator.domain.news import News, news_of

NOTHING = News(bad_answers=False, obeyed=False, answered=False)
TABLES = (DrawTable(1, 5.0, {}, settled=True), DrawTable(2, 1.0, {}))
BEFORE = ProgramState(7, "hash", True, {"v1": 10_000}, {"v1": Counts(4, {Outcome.OK: 3})}, TABLES)


def totals(**outcomes: int) -> dict[str, Counts]:
    return {"v1": Counts(9, outcomes)}


def test_the_first_answer_is_all_news() -> None:
    assert news_of(None, ProgramState()) == News(bad_answers=True, obeyed=True, answered=True)


@pytest.mark.parametrize(
    "after",
    [
        BEFORE,
        replace(BEFORE, totals=totals(ok=9)),
        replace(BEFORE, totals=totals(ok=4, cancelled=5)),
        replace(BEFORE, tables=(*TABLES, DrawTable(3, 0.0, {}))),
        replace(BEFORE, tables=TABLES[1:]),
    ],
    ids=["nothing", "good answers", "clients that left", "a new table", "a table that was forgotten"],
)
def test_nobody_waits_for(after: ProgramState) -> None:
    assert news_of(BEFORE, after) == NOTHING


@pytest.mark.parametrize("outcome", [Outcome.PROGRAM_ERROR, Outcome.OVERLOADED, Outcome.CONNECTION_FAILURE])
def test_more_bad_answers_are_news(outcome: Outcome) -> None:
    assert news_of(BEFORE, replace(BEFORE, totals=totals(ok=3, **{outcome: 1}))) == replace(NOTHING, bad_answers=True)


@pytest.mark.parametrize(
    "after",
    [
        replace(BEFORE, serial=8),
        replace(BEFORE, content="another"),
        replace(BEFORE, listening=False),
        replace(BEFORE, effective={"v1": 9_000, "v2": 1_000}),
        replace(BEFORE, refusal="no such cluster"),
    ],
)
def test_what_envoy_obeys_is_news(after: ProgramState) -> None:
    assert news_of(BEFORE, after) == replace(NOTHING, obeyed=True)


def test_a_table_whose_last_answer_came_is_news_though_an_older_one_was() -> None:
    after = replace(BEFORE, tables=(TABLES[0], replace(TABLES[1], settled=True)))
    assert news_of(BEFORE, after) == replace(NOTHING, answered=True)
