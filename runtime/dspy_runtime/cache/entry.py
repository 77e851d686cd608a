"""An answer that is kept, and the name under which it is."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass

from pydantic_core import from_json, to_json

from dspy_contract.outcomes import FLAG
from dspy_runtime.endings import MOST_VALUES

_FLAG = re.compile(FLAG)
OVERHEAD_BYTES = 1_000
"""Of an entry in memory, besides its answer."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An answer, what the program said of it, and when that was (Unix seconds)."""

    answer: bytes
    flags: tuple[str, ...]
    score: float | None
    begun_at: float

    @property
    def size(self) -> int:
        """What it takes in memory, in bytes."""
        return len(self.answer) + OVERHEAD_BYTES

    def dump(self) -> bytes:
        """The entry as bytes: a line of JSON about the answer, then the answer."""
        return to_json({"flags": self.flags, "score": self.score, "begun_at": self.begun_at}) + b"\n" + self.answer


def load(content: bytes) -> Entry | None:
    """Reads `Entry.dump`; None for what is none."""
    head, found, answer = content.partition(b"\n")
    try:
        about = from_json(head)
        score = None if about["score"] is None else float(about["score"])
        entry = Entry(answer, tuple(map(str, about["flags"])), score, float(about["begun_at"]))
    except (ValueError, KeyError, TypeError):
        return None
    return entry if found and all(map(_FLAG.fullmatch, entry.flags)) else None


def key_of(body: bytes, version: str) -> str | None:
    """The name of a request's answer within its revision: requests that differ in nothing but the order of fields and
    white space have the same. None for a body that cannot be a request."""
    if body.count(b",") > MOST_VALUES:
        return None
    try:
        content = json.dumps(from_json(body), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    except (ValueError, RecursionError):
        return None
    return hashlib.sha256(f"{version}\n{content}".encode(errors="surrogatepass")).hexdigest()
