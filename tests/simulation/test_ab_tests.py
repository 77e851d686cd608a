"""A/B tests: users who are drawn once, a verdict that may be watched, and what it means for the candidate."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from tests.simulation.transcript import transcript
from tests.simulation.world import Serving, World, release


def ab_test(**fields: Any) -> dict[str, Any]:
    until = {"users": 400, "maxSeconds": 300}
    return {"type": "ABTest", "abTest": {"users": {"header": "x-user-id"}, "until": until, "warmSeconds": 20, **fields}}


def compared(serving: Serving, users: int = 2_000, **fields: Any) -> World:
    world: World = serving(strategy=ab_test(**fields), stepDeadlineSeconds=60)
    world.users = users
    return world


def test_an_ab_test_that_the_candidate_wins(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = compared(serving, until={"users": 3_000, "maxSeconds": 900})
    world.versions[1].failure_rate = 0.1
    release(world)
    world.settle(1, rate=20)
    world.settle_until(lambda: world.stable == 2, 1_500)
    assert world.stable == 2
    assert world.ledger.history[-1].message.startswith("Win on failed: ")
    assert transcript(world) == snapshot


def test_an_ab_test_that_nobody_wins(serving: Serving, snapshot: SnapshotAssertion) -> None:
    """It waits for a person, who goes on to the next step."""
    world = compared(serving)
    release(world)
    world.settle(60, rate=20)
    assert "users" in world.rollout_status["message"]
    world.settle_until(lambda: world.rollout_status["phase"] == "Paused", 400)
    assert world.rollout_status["comparison"]["result"] == "Tie"
    assert world.rollout_status["comparison"]["moved"] == 0
    world.settle(200, rate=1)  # longer than any deadline
    assert world.weight(2) == 5_000
    assert world.condition("Stalled")[0] == "False"
    world.ask(f"promote {world.revision(2)}/2 a")
    world.settle(60, rate=20)
    assert world.stable == 2
    assert transcript(world) == snapshot


@pytest.mark.parametrize(
    ("stream", "before", "after", "said"),
    [
        ("score", 0.7, 0.75, r"Win on score: 0\.7\d+ an answer to \d+ users of the candidate against 0\.[67]\d+ .*"),
        ("tokens", 400, 300, r"Win on tokens: [23]\d\d tokens an answer to .* against [34]\d\d tokens .* to -[\d.]+\)"),
        ("cost", 0.002, 0.001, r"Win on cost: \$0\.00\d+ an answer to .* against \$0\.00\d+ .*"),
    ],
)
def test_an_ab_test_by_a_mean(serving: Serving, stream: str, before: float, after: float, said: str) -> None:
    """More is better of scores only."""
    world = compared(serving, users=5_000, until={"maxSeconds": 900}, compare={"stream": stream})
    setattr(world.versions[1], stream, before)
    better: dict[str, Any] = {stream: after}
    release(world, **better)
    world.settle(185, rate=20)
    assert "the interval begins with 500 users" in world.rollout_status["message"]
    assert "low" not in world.rollout_status["comparison"]
    world.settle_until(lambda: world.stable == 2, 700)
    assert world.stable == 2
    assert re.fullmatch(said, world.ledger.history[-1].message)


def test_an_ab_test_by_what_nobody_says(serving: Serving) -> None:
    world = compared(serving, users=5_000, until={"maxSeconds": 300}, compare={"stream": "score"})
    world.versions[1].score = 0.7
    release(world)
    world.settle(120, rate=20)
    assert "have told no score yet" in world.rollout_status["message"]
    world.settle_until(lambda: world.rollout_status["phase"] == "Paused", 400)
    assert world.rollout_status["comparison"]["result"] == "Tie"


def test_a_candidate_that_loses_is_rolled_back(serving: Serving) -> None:
    """By the comparison, though the guard alone would need more to be sure."""
    world = compared(serving, until={"users": 3_000, "maxSeconds": 900}, compare={"confidencePercent": 80})
    world.versions[1].failure_rate = 0.02
    release(world, failure_rate=0.06)
    world.settle(1, rate=20)
    world.settle_until(lambda: world.refused(2), 1_500)
    refused = world.ledger.refusal(world.revision(2))
    assert refused is not None
    assert (refused.outcome, refused.reason) == ("RolledBack", "ComparisonLost")
    assert refused.message.startswith("Loss on failed: ")


def test_the_guard_stays_on_by_users(serving: Serving) -> None:
    """One user who meets the same failure a thousand times is one failure; many who meet one are many."""
    world = compared(serving)
    release(world, failure_rate=0.5)
    world.settle(1, rate=40)
    world.settle_until(lambda: world.traffic(2) > 0, 30)
    began = world.now
    world.settle_until(lambda: world.traffic(2) == 0, 60)
    assert world.now - began < 20
    world.settle(100)
    assert world.refused(2)
    message = world.ledger.refused[-1].message
    assert message.startswith("The candidate fails more often: ")
    assert "users of the candidate" in message


def test_requests_that_tell_of_no_user_are_judged_each_for_itself(serving: Serving) -> None:
    world = compared(serving, users=0)
    release(world, failure_rate=0.5)
    world.settle(60, rate=20)
    assert world.refused(2)
    assert "requests of the candidate" in world.ledger.refused[-1].message


def test_no_user_changes_sides(serving: Serving) -> None:
    """Through ends of the candidate's pods, of gateways, agents and the operator that last less than unseenSeconds."""
    world = compared(serving, until={"users": 20_000, "maxSeconds": 3_600}, candidatePercent=30)
    release(world)
    world.settle(1, rate=40)
    world.settle_until(lambda: world.traffic(2) > 0, 30)
    world.settle(20)
    world.met.clear()
    disturbances: tuple[Callable[[], object], ...] = (
        world.restart_operator,
        lambda: next(iter(world.gateways.values())).restart_envoy(world.now),
        lambda: next(iter(world.gateways.values())).restart_agent(world.now),
        lambda: setattr(world, "reachable", False),
        lambda: setattr(world, "reachable", True),
    )
    for disturb in disturbances:
        disturb()
        world.settle(60)
        assert world.traffic(2) == 3_000
    both = [user for user, versions in world.met.items() if len(versions) > 1]
    assert len(world.met) > 1_500
    assert both == []
    world.settle(10)
    assert world.rollout_status["comparison"]["moved"] == 0
    assert world.rollout_status["comparison"]["seen"] > 1_500


def test_a_candidate_gains_nothing_by_sending_its_users_away(serving: Serving) -> None:
    """Whose pods are away for two minutes: what its users then meet at stable is met by its users."""
    world = compared(serving, until={"users": 20_000, "maxSeconds": 600}, users=300)
    for number in (1, 2):
        world.publish(number, failure_rate=0.004)
    world.want(2)
    world.settle(1, rate=40)
    world.settle_until(lambda: world.traffic(2) > 0, 30)
    world.settle(30)
    world.take_down(2, 120)
    world.settle(200)
    comparison = world.rollout_status["comparison"]
    assert comparison["moved"] > 100
    assert comparison["result"] == "Undecided"
    assert world.ledger.release is not None


def test_a_person_who_has_seen_enough_goes_on(serving: Serving) -> None:
    """Before the comparison has ended: it needs no proof that there cannot be."""
    world = compared(serving, until={"users": 20_000, "maxSeconds": 3_600})
    release(world)
    world.settle(1, rate=20)
    world.settle_until(lambda: "Comparing" in str(world.rollout_status.get("message")), 30)
    world.ask(f"promote {world.revision(2)}/2 a")
    world.settle(60)
    assert world.stable == 2
    assert world.ledger.history[-1].message == "A person went on"


def test_a_lowered_candidate_waits_until_every_gateway_has_told_all(serving: Serving) -> None:
    """An operator that has just started knows a part of the users: that is no reason to give it its traffic again."""
    world = compared(serving, users=20_000)
    release(world, failure_rate=0.3)
    world.settle(1, rate=100)
    world.settle_until(lambda: world.ledger.release is not None and world.ledger.release.lowered is not None, 60)
    world.restart_operator()
    world.settle(30)
    assert "ReleaseResumed" not in world.events()
    assert world.refused(2)


def test_equal_versions_are_not_told_apart_by_a_change_of_weights(serving: Serving) -> None:
    """While the winner is watched most of stable's users come to it, and all go on to meet what they always met."""
    until = {"users": 300, "maxSeconds": 100}
    world = compared(serving, until=until, onTie="Promote", warmSeconds=300, users=600)
    world.versions[1].failure_rate = 0.03
    release(world, failure_rate=0.03)
    world.settle(1, rate=20)
    world.settle_until(lambda: world.traffic(2) == 9_500, 200)
    world.settle(280)
    assert world.rollout_status["comparison"]["moved"] > 100
    assert "CandidateLowered" not in world.events()
