"""Releases whose candidate gets copies of requests first: what is learnt from them, and that no client notices."""

from __future__ import annotations

from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from dspy_contract.stat_names import mirrored
from tests.simulation.transcript import transcript
from tests.simulation.world import Serving, World, release

MIRRORED: list[dict[str, Any]] = [
    {"mirror": {"percent": 50, "seconds": 20, "requests": 100}},
    {"setWeight": 10},
    {"pause": {"requests": 50}},
]


def answered(world: World, number: int, copies: bool = False) -> int:
    """Requests that a version answered: of clients, or copies."""
    name = mirrored(world.revision(number)) if copies else world.revision(number)
    totals = [each.book.page(world.routes.uid).sums.totals() for each in world.gateways.values() if world.routes]
    return sum(total[name].answered for total in totals if name in total)


def copied(world: World) -> int:
    """The share that is copied to the candidate, in basis points."""
    return world.routes.backend(world.revision(2)).mirror if world.routes else 0


def test_copies_come_before_traffic(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = serving(steps=MIRRORED)
    release(world)
    world.settle(15, rate=20)
    assert (copied(world), world.weight(2), answered(world, 2)) == (5_000, 0, 0)
    assert 50 < answered(world, 2, copies=True) < 150
    assert world.rollout_status["weight"] == "0"
    assert "Copying 50% of the requests to the candidate for 20 s" in world.rollout_status["message"]
    world.settle(20, rate=20)
    assert (copied(world), world.weight(2)) == (0, 1_000)
    world.settle(600, rate=20)
    assert world.stable == 2
    assert transcript(world) == snapshot


@pytest.mark.parametrize("fault", [{"failure_rate": 0.5}, {"latency_seconds": 5.2}, {"hang_share": 1.0}])
def test_a_worse_candidate_is_refused_before_any_client_gets_it(serving: Serving, fault: dict[str, Any]) -> None:
    world = serving(steps=[{"mirror": {"percent": 20, "seconds": 600}}, {"setWeight": 10}])
    release(world, **fault)
    world.settle(240, rate=20)
    assert world.refused(2)
    assert answered(world, 2) == 0
    assert world.ledger.refused[0].candidate.requests > 0
    assert world.deployed() == {1}


@pytest.mark.parametrize("between", [[], [{"pause": {"approval": True}}]])
def test_copies_are_answered_before_any_client_depends_on_the_candidate(
    serving: Serving, between: list[dict[str, Any]]
) -> None:
    """A candidate that hangs has its copies, and what they show, beyond the end of the step."""
    world = serving(steps=[{"mirror": {"percent": 100, "requests": 100}}, *between, {"setWeight": 50}])
    release(world, hang_share=1.0)
    world.settle(40, rate=20)
    if between:
        world.ask(f"approve {world.revision(2)}/2 a")
    world.settle(160, rate=20)
    assert world.refused(2)
    assert answered(world, 2) == 0
    assert "of them copies" in world.ledger.refused[0].message


def test_a_stable_that_is_sick_holds_no_copies_up(serving: Serving) -> None:
    """The cure must get its share: there it can show that it is better."""
    world = serving(steps=[{"mirror": {"percent": 100, "seconds": 30}}, {"setWeight": 20}, {"pause": {"seconds": 5}}])
    world.versions[1].failure_rate = 0.9
    release(world)
    world.settle(200, rate=20)
    assert world.stable == 2


def test_a_large_share_of_copies_sizes_no_later_step(serving: Serving) -> None:
    steps = [{"mirror": {"percent": 100, "seconds": 20}}, {"setWeight": 10}, {"pause": {"seconds": 60}}]
    world = serving(replicas=5, strategy={"type": "Canary", "canary": {"replicas": "WithWeight", "steps": steps}})
    release(world)
    world.settle(15, rate=20)
    assert len(world.pods(2)) == 5
    world.settle(40, rate=20)
    assert (world.weight(2), len(world.pods(2))) == (1_000, 1)


def test_what_fails_for_both_refuses_nobody(serving: Serving) -> None:
    """A request and its copy meet the same provider: their failures come in pairs."""
    world = serving(steps=[{"mirror": {"percent": 100, "seconds": 300}}, {"setWeight": 10}])
    world.versions[1].failure_rate = 0.3
    release(world, failure_rate=0.3)
    world.settle(200, rate=20)
    assert copied(world) == 10_000
    assert not world.refused(2)


def test_copies_promote_nobody(serving: Serving) -> None:
    """Whoever skips the rest of the steps still waits for answers to clients, or says so."""
    world = serving(steps=[{"mirror": {"percent": 100, "seconds": 600}}, {"setWeight": 1}, {"pause": {"seconds": 1}}])
    release(world)
    world.settle(500, rate=20)
    world.ask(f"promote {world.revision(2)}/1 a")
    world.settle(30, rate=20)
    assert world.stable == 1
    assert (copied(world), world.weight(2)) == (0, 100)
    assert "proof that the candidate is no worse" in world.rollout_status["message"]


def test_copies_end_with_their_step_whoever_ends_it(serving: Serving) -> None:
    world = serving(
        steps=[{"mirror": {"percent": 100, "seconds": 600}}, {"pause": {"approval": True}}, {"setWeight": 9}]
    )
    release(world)
    world.settle(20, rate=20)
    world.ask(f"promote {world.revision(2)}/1 a")
    world.settle(5, rate=20)
    assert (copied(world), world.weight(2)) == (0, 0)
    world.ask(f"abort {world.revision(2)} b")
    world.settle(30, rate=20)
    assert world.deployed() == {1}


def test_a_lowered_candidate_gets_no_copies_until_its_cause_is_gone(serving: Serving) -> None:
    world = serving(steps=[{"mirror": {"percent": 100, "seconds": 600}}, {"setWeight": 9}])
    release(world)
    world.settle(20, rate=20)
    for gateway in world.gateways.values():
        gateway.reachable = False
    world.settle(40, rate=20)
    assert copied(world) == 0
    before = answered(world, 2, copies=True)
    world.settle(10, rate=20)
    assert answered(world, 2, copies=True) == before
    for gateway in world.gateways.values():
        gateway.reachable = True
    world.settle(60, rate=20)
    assert copied(world) == 10_000
