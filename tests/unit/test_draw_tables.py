"""When a draw table opens, and when what it drew is judged, closed, settled and forgotten."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dspy_contract.routes import Backend, ReleaseRef, Routes
from dspy_gateway.book import Book
from dspy_gateway.persisted import load_book, save_book
from dspy_gateway.switches import Switches
from dspy_gateway.tables import ProgramTables

ROUTES = Routes("qa", "uid", 1, 60, (Backend("old", 9_000), Backend("new", 1_000)), ReleaseRef(1, "old", ("new",)))
NONE, TENTH, HALF = {"old": 10_000, "new": 0}, {"old": 9_000, "new": 1_000}, {"old": 5_000, "new": 5_000}


def opened(*changes: tuple[float, dict[str, int]]) -> ProgramTables:
    """Tables that opened at these times with these weights."""
    tables = ProgramTables()
    for number, (now, weights) in enumerate(changes, 1):
        tables.open(number, ROUTES, weights, 0.0, now)
        tables.confirm(number, now)
    return tables


def judged(tables: ProgramTables) -> list[bool]:
    return [entry.judged for entry in tables.entries.values()]


def test_weights_that_stand_are_judged() -> None:
    assert judged(opened((0.0, NONE), (5.0, TENTH), (15.0, TENTH), (20.0, HALF))) == [True] * 4


def test_a_change_just_after_a_rotation_is_judged() -> None:
    assert judged(opened((0.0, NONE), (10.0, NONE), (10.2, TENTH))) == [True, True, True]


def test_weights_that_flap_are_not_judged_until_they_stand() -> None:
    tables = opened((0.0, NONE), (5.0, TENTH), (5.3, HALF))
    assert judged(tables) == [True, True, False]
    assert not tables.needs_another(ROUTES, HALF, 6.0)
    assert tables.needs_another(ROUTES, HALF, 6.3)
    tables.open(4, ROUTES, HALF, 0.0, 6.3)
    assert judged(tables)[-1]


def test_a_table_is_rotated_while_a_release_moves_and_stays_without_one() -> None:
    tables = opened((0.0, TENTH))
    assert not tables.needs_another(ROUTES, TENTH, 9.9)
    assert tables.needs_another(ROUTES, TENTH, 10.0)
    assert tables.needs_another(replace(ROUTES, timeout_seconds=3_600), TENTH, 72.0)
    assert not tables.needs_another(replace(ROUTES, timeout_seconds=3_600), TENTH, 71.0)
    idle = replace(ROUTES, release=None)
    tables.open(2, idle, TENTH, 0.0, 20.0)
    assert not tables.needs_another(idle, TENTH, 9_999.0)


def test_a_table_that_envoy_has_not_confirmed_is_not_followed_by_another() -> None:
    tables = ProgramTables()
    tables.open(1, ROUTES, TENTH, 0.0, 0.0)
    assert not tables.needs_another(ROUTES, TENTH, 60.0)
    assert tables.needs_another(ROUTES, HALF, 60.0)
    tables.confirm(1, 60.0)
    assert tables.needs_another(ROUTES, TENTH, 60.0)


def test_another_epoch_or_release_opens_another_table() -> None:
    tables = opened((0.0, TENTH))
    assert tables.needs_another(replace(ROUTES, release=ReleaseRef(1, "old", ("new",), 1)), TENTH, 0.1)
    assert tables.needs_another(replace(ROUTES, release=ReleaseRef(2, "old", ("new",))), TENTH, 0.1)


def test_a_table_is_closed_a_while_after_the_next_is_confirmed_and_settled_when_all_is_answered() -> None:
    tables = opened((0.0, NONE), (5.0, TENTH))
    tables.confirm(2, 5.1)
    assert not tables.settle({1: 0}, 5.5)
    assert not tables.settle({1: 3}, 6.2)
    assert tables.settle({1: 0}, 6.3)
    assert tables.entries[1].settled
    assert not tables.entries[2].settled


def test_settled_tables_are_forgotten_when_they_are_kept_elsewhere_or_old() -> None:
    tables = opened((0.0, NONE), (5.0, TENTH), (10.0, HALF))
    tables.confirm(3, 10.0)
    tables.settle({}, 12.0)
    assert list(tables.forget(1, 12.0)) == [1]
    assert list(tables.forget(0, 12.0)) == []
    assert list(tables.forget(0, 4_000.0)) == [2]
    assert set(tables.entries) == {3}


def test_what_a_dead_envoy_drew_is_closed_at_once() -> None:
    tables = opened((0.0, TENTH))
    tables.close_all(1.0)
    assert tables.entries[1].closed(1.0)
    assert tables.needs_another(ROUTES, TENTH, 1.0)


def test_no_table_number_is_used_twice_whatever_became_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "book.json"
    book = Book()
    first = book.draw(ROUTES, TENTH, 1, 0.0)
    switches = Switches()
    switches.renew(ROUTES.uid, 7, 1.0)
    save_book(file, book, switches)
    loaded, watched = load_book(file)
    assert loaded.draw(ROUTES, TENTH, 1, 0.0) == first, "the book goes on"
    assert watched == switches
    used = {book.draw(ROUTES, weights, 1, 0.0) for weights in (HALF, TENTH)}  # and ends before it is written again
    assert load_book(file)[0].draw(ROUTES, HALF, 1, 0.0) not in used
    (tmp_path / "book.partial").mkdir()  # nothing can be written any more
    save_book(file, book, switches)
    assert load_book(file)[0].incarnation != book.incarnation
