"""What proves to a provider who calls, as it is now."""

from __future__ import annotations

import asyncio
from typing import Any

from dspy._vendor.lm15.credentials import coerce_credential


async def current(given: Any) -> Any:
    """The credential of a key, or of what renews an identity, which may be a call of its own."""
    return coerce_credential(await asyncio.to_thread(given) if callable(given) else given)
