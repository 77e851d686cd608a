"""How often Python looks for cycles: rarely, in a server that makes few of them."""

from __future__ import annotations

import gc

YOUNG_OBJECTS = 20_000
"""Objects more before the youngest are looked through. Evidence lives for seconds, and is a lot: with Python's own 700
almost half of the operator's CPU went into looking, and its loop stood still for half a second at a time."""


def collect_rarely() -> None:
    """To be called once everything is imported, which is never looked through again."""
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 20)


def pause_collection() -> None:
    """While memory is filled with what stays: looking through ever more of it finds nothing, and took two fifths of the
    operator's start."""
    gc.disable()


def resume_collection() -> None:
    """What is there now stays, and is never looked through again."""
    gc.freeze()
    gc.enable()
