"""What several tests begin with."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.simulation.clock import VirtualLoop


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    """Virtual time, on which a story is run to its end."""
    loop = VirtualLoop(1_000.0)
    asyncio.set_event_loop(loop)
    yield loop
    loop.close()
