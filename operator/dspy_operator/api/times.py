"""Times: Unix seconds in Python, RFC 3339 in everything that the API stores. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NewType

if TYPE_CHECKING:
    UnixSeconds = float
else:
    UnixSeconds = NewType("UnixSeconds", float)
    """A float to everybody but the converter, which writes it as RFC 3339 in milliseconds."""


LATEST = 253_402_300_800.0
"""The year 10000, which no calendar of Python holds."""


def timestamp(now: float) -> str:
    """Unix seconds as the API writes times."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def precise(now: float) -> str:
    """Unix seconds to the millisecond."""
    return datetime.fromtimestamp(round(now, 3), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds(text: str) -> float:
    """A time of the API as Unix seconds. Raises ValueError for text that is none."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
