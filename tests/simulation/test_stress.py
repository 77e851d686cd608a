"""A few hundred releases under stress: no healthy candidate is lowered, every bad one is, and is refused.

`python -m benchmarks judgement` prints the medians of more of them beside the published ones.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import median

import pytest

from tests.simulation.stress import FAULTS, HEALTHY, Stress, endings

HEALTHY_RELEASES, BAD_RELEASES = 20, 20
LOOK_SECONDS = 2.0
"""Healthy candidates are looked at less often here: the test is valid at any look, and time is short."""


@pytest.mark.parametrize("stress", HEALTHY, ids=lambda stress: stress.name)
def test_no_healthy_candidate_is_lowered(stress: Stress) -> None:
    found = endings(replace(stress, look_seconds=LOOK_SECONDS), HEALTHY_RELEASES)
    assert [each.lowered_after for each in found] == [None] * HEALTHY_RELEASES


@pytest.mark.parametrize(("stress", "published"), FAULTS, ids=[stress.name for stress, _ in FAULTS])
def test_every_bad_candidate_is_lowered_and_confirmed(stress: Stress, published: float) -> None:
    found = endings(stress, BAD_RELEASES)
    after = [each.lowered_after for each in found if each.lowered_after is not None]
    assert len(after) == BAD_RELEASES
    assert median(after) <= 2 * published
    assert all(each.confirmed for each in found)
