"""What users of other rollout controllers complained of, each as a story of what must not happen here.

docs/comparison.md names the reports.
"""

from __future__ import annotations

from tests.simulation.world import NAMESPACE, Serving, World, release

PROMOTING = {"analysis": {"onUndecided": "Promote"}}
SIZED = {
    "type": "Canary",
    "canary": {"replicas": "WithWeight", "steps": [{"setWeight": 10}, {"pause": {"seconds": 60}}]},
}


def replicas(world: World, number: int) -> int:
    """How many pods a version's Deployment asks for."""
    item = world.api.get("deployments", NAMESPACE, world.revision(number))
    return int(item["spec"]["replicas"]) if item else 0


def test_an_abort_works_while_the_candidates_pods_cannot_start(serving: Serving) -> None:
    world = serving()
    release(world, 2, start_seconds=10_000)
    world.settle(700, rate=20)
    assert world.rollout_status["phase"] == "Paused"
    world.ask(f"abort {world.revision(2)} a")
    world.settle(10, rate=20)
    assert world.refused(2)
    assert world.deployed() == {1}


def test_a_promote_is_done_at_once_and_the_way_back_is_open(serving: Serving) -> None:
    """There is no time in which an abort would come too late for the one and too early for the other."""
    world = serving()
    release(world, 2)
    world.settle_until(lambda: world.weight(2) > 0, 60)
    old = world.revision(1)
    world.ask(f"promote {world.revision(2)} a")
    world.settle(2, rate=20)
    assert world.stable == 2
    world.ask(f"undo {old} b")
    world.settle(20, rate=20)
    assert (world.stable, world.traffic(2)) == (1, 0)


def test_an_abort_leaves_no_weight_and_no_pod_of_a_sized_candidate(serving: Serving) -> None:
    world = serving(strategy=SIZED, replicas=5)
    release(world, 2)
    world.settle_until(lambda: world.weight(2) > 0, 60)
    world.ask(f"abort {world.revision(2)} a")
    world.settle(5, rate=20)
    assert (world.weight(2), world.traffic(2)) == (0, 0)
    world.settle(700, rate=20)
    assert world.deployed() == {1}


def test_a_candidate_sized_for_its_weight_never_gets_more(serving: Serving) -> None:
    """Neither on the way on nor on the way back: its pods come first, and stable has all of its own until the end."""
    world = serving(strategy=SIZED, replicas=10, **PROMOTING)
    release(world, 2)
    for _ in range(120):
        world.settle(1, rate=20)
        if world.stable == 2:
            break
        assert replicas(world, 1) == 10
        ready = world.ready_pods().get(world.revision(2), 0)
        assert world.traffic(2) / 10_000 <= ready / 10 + 1e-9
    assert world.stable == 2


def test_a_promotion_starts_and_ends_no_pod_of_the_candidate(serving: Serving) -> None:
    """What was judged is what serves: no second rollout follows that could fail after the verdict."""
    world = serving(**PROMOTING)
    release(world, 2)
    world.settle_until(lambda: world.weight(2) > 0, 60)
    judged = set(world.pods(2))
    world.settle(120, rate=20)
    assert world.stable == 2
    assert set(world.pods(2)) == judged


def test_a_refusal_wedges_nothing(serving: Serving) -> None:
    """The next version is judged, and so is the same one when somebody asks for it."""
    world = serving(**PROMOTING)
    release(world, 2, failure_rate=1.0)
    world.settle(60, rate=20)
    assert world.refused(2)
    release(world, 3)
    world.settle(120, rate=20)
    assert world.stable == 3
    world.versions[2].failure_rate = 0.0
    world.want(2)
    world.settle(20, rate=20)
    assert world.weight(2) == 0, "it stays refused until a person asks"
    world.ask(f"retry {world.revision(2)} a")
    world.settle(120, rate=20)
    assert world.stable == 2


def test_one_failure_among_few_requests_refuses_nobody(serving: Serving) -> None:
    world = serving(steps=({"setWeight": 50}, {"pause": {"seconds": 120}}), **PROMOTING)
    release(world, 2, failure_rate=1.0)
    world.settle_until(lambda: world.weight(2) > 0, 60)
    world.settle_until(lambda: world.rollout_status["requests"]["candidate"]["failures"] > 0, 60)
    world.settle(1, rate=1)
    world.versions[2].failure_rate = 0.0
    world.settle(300, rate=1)
    assert not world.refused(2)


def test_measurements_that_fail_are_no_success(serving: Serving) -> None:
    """A candidate whose counts nobody can read loses its traffic, and is neither promoted nor refused."""
    world = serving(**PROMOTING)
    release(world, 2)
    world.settle_until(lambda: world.weight(2) > 0, 60)
    for gateway in world.gateways.values():
        gateway.reachable = False
    world.settle(120, rate=20)
    assert (world.stable, world.weight(2)) == (1, 0)
    assert not world.refused(2)
    for gateway in world.gateways.values():
        gateway.reachable = True
    world.settle(300, rate=20)
    assert world.stable == 2
