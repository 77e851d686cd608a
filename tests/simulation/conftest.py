"""What several tests begin with."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.simulation.clock import VirtualLoop
from tests.simulation.invariants import check
from tests.simulation.world import Serving, World
from tests.simulation.world import serving as serving_world


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    """Virtual time, on which a story is run to its end."""
    loop = VirtualLoop(1_000.0)
    asyncio.set_event_loop(loop)
    yield loop
    loop.close()


@pytest.fixture
def serving() -> Iterator[Serving]:
    """Makes worlds in which version 1 serves; each is checked and closed at the end."""
    worlds: list[World] = []

    def make(**options: Any) -> World:
        worlds.append(serving_world(**options))
        return worlds[-1]

    yield make
    for world in worlds:
        check(world)
        world.close()
