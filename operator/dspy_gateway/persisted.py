"""What the agent knew last, kept in files, so that a gateway starts again without the API server and counts go on."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from dspy_contract.logs import Logger
from dspy_gateway.book import Book, Page
from dspy_gateway.counts import Sums
from dspy_gateway.resources import DesiredState
from dspy_gateway.switches import Switches
from dspy_gateway.tables import Entry, ProgramTables

log = Logger(__name__)


def save_desired(path: Path, desired: DesiredState) -> None:
    """Writes the desired state, whole or not at all."""
    _write(path, desired)


def load_desired(path: Path) -> DesiredState | None:
    """The desired state that was saved; None without a readable file."""
    found: DesiredState | None = _read(path, DesiredState)
    return found


class _SavedPage(msgspec.Struct):
    entries: list[Entry]
    base: list[tuple[int, str, str, int]]
    latest: list[tuple[int, str, str, int]]
    retired: list[tuple[str, str, int]]
    gone: list[int]
    candidate_pods: int
    grown_at: float


class _SavedBook(msgspec.Struct):
    clock: float
    incarnation: str
    reserved: int
    pages: dict[str, _SavedPage]
    renewed: dict[str, tuple[int, float]]


def save_book(path: Path, book: Book, switches: Switches) -> None:
    """Writes the book, and how long candidates are watched. Every reserved number counts as used when it is read again.

    One that cannot be written leaves no older one behind: whoever starts next begins a new incarnation, so that no
    number is ever used twice.
    """
    pages = {
        uid: _SavedPage(
            entries=list(page.tables.entries.values()),
            base=[(*key, count) for key, count in page.sums.base.items()],
            latest=[(*key, count) for key, count in page.sums.latest.items()],
            retired=[(*key, count) for key, count in page.sums.retired.items()],
            gone=sorted(page.sums.gone),
            candidate_pods=page.candidate_pods,
            grown_at=page.grown_at,
        )
        for uid, page in book.pages.items()
    }
    if not _write(path, _SavedBook(time.monotonic(), book.incarnation, book.reserved, pages, switches.renewed)):
        path.unlink(missing_ok=True)


def load_book(path: Path) -> tuple[Book, Switches]:
    """What was saved; a new book, of a new incarnation, without a readable file."""
    saved = _read(path, _SavedBook)
    # The clock of another boot of the machine says nothing about this one.
    if saved is None or time.monotonic() < saved.clock:
        return Book(), Switches(began_at=time.monotonic())
    pages = {uid: _page(each) for uid, each in saved.pages.items()}
    return Book(saved.incarnation, saved.reserved + 1, saved.reserved, pages), Switches(saved.renewed)


def _page(saved: _SavedPage) -> Page:
    sums = Sums(
        Counter({(number, revision, what): count for number, revision, what, count in saved.base}),
        Counter({(number, revision, what): count for number, revision, what, count in saved.latest}),
        Counter({(revision, what): count for revision, what, count in saved.retired}),
        set(saved.gone),
    )
    tables = ProgramTables({entry.number: entry for entry in saved.entries})
    return Page(tables, sums, saved.candidate_pods, saved.grown_at)


def _read(path: Path, kind: Any) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        log.error("A file could not be read and begins anew", path=path.name, error=type(error).__name__)
        return None


def _write(path: Path, content: Any) -> bool:
    partial = path.with_suffix(".partial")
    try:
        partial.write_bytes(msgspec.json.encode(content))
        partial.rename(path)
    except OSError as error:  # a full disk must not stop the gateway
        log.error("A file could not be written", path=path.name, error=repr(error))
        return False
    return True
