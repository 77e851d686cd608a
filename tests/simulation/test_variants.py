"""A/B/n tests: several candidates at once, each judged and compared with stable alone, under one chance to be wrong."""

from __future__ import annotations

from typing import Any

from syrupy.assertion import SnapshotAssertion

from tests.simulation.test_ab_tests import ab_test
from tests.simulation.transcript import transcript
from tests.simulation.world import Serving, World, release


def variants(*numbers: int) -> list[dict[str, Any]]:
    return [{"name": f"v{number}", "uri": f"models:/qa/{number}"} for number in numbers]


def several(serving: Serving, *numbers: int, users: int = 3_000, seconds: int = 900, **fields: Any) -> World:
    """A world whose policy is about to have these versions compared, which begins with the next pass."""
    world: World = serving(strategy=ab_test(until={"maxSeconds": seconds}, **fields), stepDeadlineSeconds=60)
    world.users = users
    strategy = ab_test(variants=variants(*numbers), until={"maxSeconds": seconds}, **fields)
    world.edit("dspyrollouts", lambda item: item["spec"].update(strategy=strategy))
    for number in numbers:
        world.publish(number)
    return world


def candidates(world: World) -> dict[str, Any]:
    return {each["version"]: each for each in world.rollout_status.get("candidates", ())}


def test_the_best_of_several_is_promoted(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = several(serving, 3, 4, seconds=600)
    world.versions[1].failure_rate = 0.1
    world.versions[3].failure_rate, world.versions[4].failure_rate = 0.0, 0.3
    release(world, failure_rate=0.08)
    world.settle(1, rate=30)
    world.settle_until(lambda: world.traffic(2) > 0, 30)
    assert [world.weight(number) for number in (1, 2, 3, 4)] == [2_500] * 4
    world.settle(5)
    assert candidates(world)["v3"]["variant"] == "v3"
    assert "variant" not in candidates(world)["v2"], "that is what the program asks for"
    kept = world.status["release"]["release"]
    assert all("users" not in each["evidence"] for each in (kept, *kept["others"])), "they are many, and told anew"
    world.settle_until(lambda: world.stable == 3, 1_500)
    assert world.stable == 3
    assert world.refused(2)
    assert world.refused(4)
    assert world.ledger.history[-1].message.startswith("Win on failed: ")
    assert world.condition("Current")[:2] == ("False", "Undone"), "it serves instead of what the spec asks for"
    world.settle(60)
    assert world.ledger.release is None
    world.ask(f"retry {world.revision(4)} a")
    world.settle(5)
    assert "serves instead of what the spec asks for" in world.status["request"]
    assert world.refused(4)
    # What was told, without the lines of the table: they are of every second.
    assert [line for line in transcript(world).splitlines() if "  | " not in line] == snapshot


def test_a_worse_one_of_several_goes_alone(serving: Serving) -> None:
    """Within seconds, and nobody else is moved."""
    world = several(serving, 3)
    world.versions[1].failure_rate = 0.01
    world.versions[3].failure_rate = 0.5
    release(world, failure_rate=0.01)
    world.settle(1, rate=30)
    world.settle_until(lambda: world.traffic(3) > 0, 30)
    began = world.now
    world.met.clear()
    world.settle_until(lambda: world.traffic(3) == 0, 60)
    assert world.now - began < 30
    world.settle_until(lambda: world.refused(3), 90)
    refused = world.ledger.refusal(world.revision(3))
    assert refused is not None
    assert refused.reason == "FailsMoreOften"
    assert world.traffic(2) > 0
    assert world.ledger.release is not None
    world.settle(120)
    others = [user for user, met in world.met.items() if len(met) > 1 and 3 not in met]
    assert others == []
    assert world.weight(1) + world.weight(2) == 10_000


def test_variants_are_compared_with_what_serves(serving: Serving) -> None:
    """Without anything new in the program's spec; whoever has been refused is not tried again."""
    world = several(serving, 2, 3, seconds=300)
    world.settle(1, rate=20)
    world.settle_until(lambda: world.traffic(2) > 0, 60)
    assert world.traffic(3) > 0
    world.settle_until(lambda: world.rollout_status["phase"] == "Paused", 500)
    assert "Waiting for a decision" in world.rollout_status["message"]
    for number in (2, 3):
        world.ask(f"abort {world.revision(number)} {number}")
        world.settle(3)
    world.settle(60)
    assert (world.ledger.release, world.stable, world.traffic(1)) == (None, 1, 10_000)
    assert world.condition("Current")[0] == "True"


def test_nothing_starts_before_every_variant_is_known(serving: Serving) -> None:
    world = several(serving, 3)
    world.registry.missing.add("3")
    release(world)
    world.settle(30, rate=20)
    assert world.ledger.release is None
    assert "The variant v3 of the rollout is not known" in world.condition("Current")[2]
    world.registry.missing.clear()
    world.settle_until(lambda: world.traffic(3) > 0, 120)
    assert world.traffic(2) == world.traffic(3) > 0


def test_the_way_back_waits_for_no_variant(serving: Serving) -> None:
    world = several(serving, 3, seconds=3_600)
    release(world)
    world.settle(1, rate=20)
    world.settle_until(lambda: world.traffic(3) > 0, 60)
    world.ask(f"promote {world.revision(2)} a")
    world.settle(10)
    assert world.stable == 2
    world.registry.missing.add("9")
    strategy = ab_test(variants=variants(9))
    world.edit("dspyrollouts", lambda item: item["spec"].update(strategy=strategy))
    world.settle(5)
    world.ask(f"undo {world.revision(1)} b")
    world.settle(30)
    assert world.stable == 1


def test_a_winner_that_a_person_leaves_does_not_come_back(serving: Serving) -> None:
    """Also where the spec asked for what served before: undo goes there at once, and it stays."""
    world = several(serving, 3, seconds=3_600)
    world.settle(1, rate=20)
    world.settle_until(lambda: world.traffic(3) > 0, 60)
    world.ask(f"promote {world.revision(3)} a")
    world.settle(15)
    assert world.stable == 3
    world.ask(f"undo {world.revision(1)} b")
    world.settle_until(lambda: world.stable == 1, 60)
    assert world.stable == 1
    world.settle(60)
    assert world.ledger.release is None
    assert world.refused(3)
    assert world.condition("Current")[0] == "True"


def test_all_come_back_when_stable_was_sick_by_itself(serving: Serving) -> None:
    world = several(serving, 3, 4, seconds=3_600)
    release(world)
    world.settle(60, rate=30)
    assert world.traffic(4) > 0
    world.versions[1].failure_rate = 0.45
    world.settle_until(lambda: world.traffic(2) == world.traffic(3) == world.traffic(4) == 0, 60)
    world.settle_until(lambda: world.traffic(2) > 0, 200)
    world.settle(10)
    assert [world.traffic(number) for number in (2, 3, 4)] == [2_500] * 3


def test_a_person_goes_on_with_one_of_several(serving: Serving) -> None:
    world = several(serving, 3, seconds=3_600)
    release(world)
    world.settle(1, rate=20)
    world.settle_until(lambda: world.traffic(3) > 0, 60)
    world.settle(20)
    world.ask(f"promote {world.revision(3)}/2 a")
    world.settle(60)
    assert world.stable == 3
    assert world.refused(2)


def test_another_version_ends_a_test_of_several(serving: Serving) -> None:
    world = several(serving, 3, seconds=3_600)
    release(world)
    world.settle(1, rate=20)
    world.settle_until(lambda: world.traffic(3) > 0, 60)
    release(world, 5)
    world.settle_until(lambda: world.traffic(5) > 0, 60)
    assert world.traffic(2) == 0
    assert world.traffic(3) == world.traffic(5), "the variant begins anew"


def test_users_stay_through_restarts_of_everything(serving: Serving) -> None:
    world = several(serving, 3, 4, seconds=3_600)
    release(world)
    world.settle(1, rate=40)
    world.settle_until(lambda: world.traffic(4) > 0, 60)
    world.settle(20)
    world.met.clear()
    world.restart_operator()
    world.settle(40)
    world.take_down(3, 20)
    world.settle(40)
    world.restart_operator()
    world.settle(40)
    moved = [user for user, met in world.met.items() if len(met) > 1 and not met <= {1, 3}]
    assert len(world.met) > 1_000
    assert moved == [], "only users of the one whose pods were away were elsewhere: at stable"
