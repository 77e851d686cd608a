"""Releases of programs that give answers again: a stable that has many of them looks no better for that."""

from __future__ import annotations

from typing import Any

import pytest

from dspy_contract.stat_names import cached
from tests.simulation.world import Serving, World, release

CACHED: dict[str, Any] = {"spec": {"cache": {}}}
STEPS: list[dict[str, Any]] = [
    {"setWeight": 20},
    {"pause": {"requests": 200}},
    {"setWeight": 60},
    {"pause": {"requests": 200}},
]


def warm(world: World) -> None:
    """Stable answers most requests from its cache, and its provider fails 3 % of the others."""
    world.versions[1].cached_share = 0.9
    world.surroundings.provider_failure_rate = 0.03


@pytest.mark.parametrize("seed", range(4))
def test_a_candidate_with_a_cold_cache_is_no_worse_than_a_stable_with_a_warm_one(serving: Serving, seed: int) -> None:
    world = serving(seed=seed, steps=STEPS, **CACHED)
    warm(world)
    release(world)
    world.settle(25, rate=20)
    assert world.weight(2) == 2_000
    (gateway, *_) = world.gateways.values()
    one, two = world.revision(1), world.revision(2)
    assert gateway.effective == {one: 2_000, cached(one): 6_000, two: 2_000}
    world.settle(600, rate=20)
    assert world.stable == 2


@pytest.mark.parametrize("fault", [{"failure_rate": 0.3}, {"latency_seconds": 5.2}, {"hang_share": 1.0}])
def test_a_worse_candidate_is_refused_beside_a_warm_cache(serving: Serving, fault: dict[str, Any]) -> None:
    world = serving(steps=STEPS, **CACHED)
    warm(world)
    release(world, **fault)
    world.settle(300, rate=20)
    assert world.refused(2)


def test_a_release_that_takes_the_cache_away_is_compared_with_what_went_past_it(serving: Serving) -> None:
    world = serving(steps=STEPS, **CACHED)
    warm(world)
    world.publish(2)
    world.edit("dspyprograms", lambda item: item["spec"].pop("cache"))
    world.want(2)
    world.settle(60, rate=20)
    assert world.routes
    assert world.routes.cached
    world.settle(900, rate=20)
    assert world.stable == 2
    world.settle(7_200)
    assert world.routes.cached, "the old revision, which has one, is still the way back"


def ask_to_forget(world: World, wish: str) -> None:
    world.edit("dspyprograms", lambda item: item["metadata"].update(annotations={"dspy.dev/forget-answers": wish}))


def test_answers_are_forgotten_once_by_every_pod_that_keeps_any(serving: Serving) -> None:
    world = serving(replicas=3, **CACHED)
    world.settle(30)
    ask_to_forget(world, "1")
    world.settle(10)
    assert sorted(world.runtimes.forgotten) == sorted(world.pods(1))
    assert world.status["answersForgotten"] == "1"
    world.restart_operator()
    world.settle(60)
    assert len(world.runtimes.forgotten) == 3, "it has been done"
    world.runtimes.reachable = False
    ask_to_forget(world, "2")
    world.settle(30)
    assert world.status["answersForgotten"] == "1"
    world.runtimes.reachable = True
    world.settle(30)
    assert world.status["answersForgotten"] == "2"
    assert world.events().count("AnswersForgotten") == 2


def test_a_wish_to_forget_is_done_at_once_where_nobody_keeps_anything(serving: Serving) -> None:
    world = serving()
    ask_to_forget(world, "1")
    world.settle(10)
    assert not world.runtimes.forgotten
    assert world.status["answersForgotten"] == "1"
