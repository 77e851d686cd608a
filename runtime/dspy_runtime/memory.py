"""Looks for cycles when memory has grown: Python counts objects, and a few may hold much."""

from __future__ import annotations

import asyncio
import gc
import os
from pathlib import Path

GROWN_BYTES = 64 << 20
LOOK_SECONDS = 0.5
_STATM = Path("/proc/self/statm")


async def collect_when_grown() -> None:
    """Runs for ever, on the loop of the requests. Without /proc Python's own thresholds are all there is."""
    collected = _resident()
    while collected:
        await asyncio.sleep(LOOK_SECONDS)
        collected = min(collected, now := _resident())
        if now - collected > GROWN_BYTES:
            gc.collect()
            collected = _resident()


def _resident() -> int:
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0
