"""Releases of programs that people talk with: a conversation stays where it began, and they are judged by those."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from syrupy.assertion import SnapshotAssertion

from tests.simulation.transcript import transcript
from tests.simulation.world import Serving, World, release

STEPS: list[dict[str, Any]] = [
    {"setWeight": 10},
    {"pause": {"seconds": 60}},
    {"setWeight": 50},
    {"pause": {"seconds": 120}},
]


def talking(serving: Serving, steps: list[dict[str, Any]] = STEPS, **options: Any) -> World:
    """A hundred conversations at a time, of twenty requests each."""
    world: World = serving(steps=steps, **options)
    world.edit("dspyprograms", lambda item: item["spec"].update(routing={"conversations": {"header": "x-chat"}}))
    world.users, world.turns = 100, 20
    world.settle(20, rate=20)
    return world


def who_changed(world: World, before: Mapping[str, set[int]]) -> list[str]:
    """The conversations that were answered by more than one version since then."""
    return [user for user, versions in world.met.items() if len(versions | before.get(user, set())) > 1]


def test_a_conversation_stays_where_it_began(serving: Serving) -> None:
    world = talking(serving)
    release(world)
    world.settle_until(lambda: world.weight(2) == 5_000, 200)
    world.settle(100, rate=20)
    assert {1} in world.met.values()
    assert {2} in world.met.values()
    assert who_changed(world, {}) == []
    world.settle_until(lambda: world.stable == 2, 2_000)
    assert world.stable == 2


def test_a_worse_candidate_is_refused_by_its_conversations(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = talking(serving)
    release(world, failure_rate=0.3)
    world.settle(400, rate=20)
    assert world.refused(2)
    assert world.deployed() == {1}
    assert transcript(world) == snapshot


def test_a_slower_candidate_is_refused_by_its_conversations(serving: Serving) -> None:
    world = talking(serving)
    release(world, latency_seconds=5.2)
    world.settle(400, rate=20)
    assert world.refused(2)
    assert "users of the candidate took over" in world.ledger.refused[0].message


def test_conversations_that_are_switched_off_in_mid_release_are_still_evidence(serving: Serving) -> None:
    """What guard and pass know is the same: the candidate is not lowered and raised without end."""
    world = talking(serving)
    release(world, failure_rate=0.3)
    world.settle_until(lambda: world.weight(2) > 0, 60)
    world.settle(40, rate=20)
    world.edit("dspyprograms", lambda item: item["spec"].update(routing={}))
    world.settle(120, rate=20)
    assert world.refused(2)
    assert sum("CandidateLowered" in event for event in world.events()) <= 2


def test_one_conversation_that_always_fails_is_one(serving: Serving) -> None:
    """Counting requests, a single client who repeats a bad input would refuse a version."""
    world = talking(serving, steps=[{"setWeight": 20}, {"pause": {"seconds": 600}}])
    release(world)
    world.settle(60, rate=20)
    candidates = [user for user, drawn in world.conversations.items() if drawn.revision == world.revision(2)]
    world.users, world.turns = 1, 0
    world.versions[2].failure_rate = 1.0
    world.conversations["user-0"] = world.conversations[candidates[0]]
    world.settle(60, rate=20)
    assert world.met["user-0"] == {2}
    assert world.weight(2) == 2_000
    assert world.ledger.release is not None
    assert world.ledger.release.lowered is None


def test_conversations_leave_a_lowered_candidate_and_come_back(serving: Serving) -> None:
    world = talking(serving, steps=[{"setWeight": 50}, {"pause": {"seconds": 900}}])
    world.turns = 0
    release(world)
    world.settle(60, rate=20)
    candidates = [user for user, versions in world.met.items() if 2 in versions and len(versions) == 1]
    assert candidates
    for gateway in world.gateways.values():
        gateway.reachable = False
    world.settle(40, rate=20)
    world.met.clear()
    world.settle(10, rate=20)
    assert {2} not in world.met.values()
    for gateway in world.gateways.values():
        gateway.reachable = True
    world.settle_until(lambda: world.traffic(2) > 0, 120)
    world.met.clear()
    world.settle(40, rate=20)
    assert all(world.met[user] == {2} for user in candidates if user in world.met)


def test_nothing_is_promoted_before_conversations_are_old_enough(serving: Serving) -> None:
    world = talking(serving, steps=[{"setWeight": 50}, {"pause": {"seconds": 5}}])
    release(world)
    world.settle(50, rate=20)
    assert world.stable == 1
    assert "0 can be compared" in world.rollout_status["message"]
