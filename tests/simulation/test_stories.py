"""One readable story for each row of "what happens when": the operator's own words, compared with golden
transcripts."""

from __future__ import annotations

import pytest
from syrupy.assertion import SnapshotAssertion

from dspy_operator.api.rollout import Analysis, Canary, ErrorRate, OnUndecided, Pause, Step
from dspy_operator.domain.strategies.canary import steps_of
from tests.simulation.cluster import CANARY, START, World, serving


def transcript(world: World) -> str:
    """What the operator said, second by second, and where it ended."""
    lines = [f"{at - START:6.0f} s  {said.reason}: {said.message}" for at, said in world.said]
    weights = {backend.revision: backend.weight for backend in world.routes.backends} if world.routes else {}
    return "\n".join([*lines, f"in the end: {world.current_reason()}, routes {weights}"])


def test_the_first_revision_of_a_program(snapshot: SnapshotAssertion) -> None:
    assert transcript(serving()) == snapshot


def test_a_good_release(snapshot: SnapshotAssertion) -> None:
    world = serving()
    world.publish(2)
    world.want(2)
    world.settle(60, requests=20)
    assert world.ledger.stable == "qa-2"
    assert set(world.workloads) == {"qa-2"}
    assert transcript(world) == snapshot


def test_a_bad_release(snapshot: SnapshotAssertion) -> None:
    world = serving()
    world.publish(2, failure_rate=1.0)
    world.want(2)
    world.settle(30, requests=20)
    assert world.ledger.stable == "qa-1"
    assert set(world.workloads) == {"qa-1"}
    assert transcript(world) == snapshot


def test_a_candidate_above_the_ceiling(snapshot: SnapshotAssertion) -> None:
    steps = (Step(set_weight=80), Step(pause=Pause(seconds=600)))
    world = serving(steps=steps, analysis=Analysis(error_rate=ErrorRate(max_percent=2)))
    world.versions[1].failure_rate = 0.06
    world.publish(2, failure_rate=0.08)
    world.want(2)
    world.settle(200, requests=20)
    assert world.ledger.release is not None
    assert world.ledger.release.weight_bp == 5_000
    assert world.ledger.release.paused is not None
    assert world.ledger.release.paused.reason == "AboveCeiling"
    assert transcript(world) == snapshot


def test_no_policy(snapshot: SnapshotAssertion) -> None:
    world = serving()
    world.policy = None
    world.publish(2)
    world.want(2)
    world.settle(20, requests=20)
    assert world.ledger.stable == "qa-2"
    assert not world.lost
    assert transcript(world) == snapshot


def test_a_new_revision_in_mid_release(snapshot: SnapshotAssertion) -> None:
    world = serving()
    world.publish(2)
    world.publish(3)
    world.want(2)
    world.settle(8, requests=5)
    world.want(3)
    world.settle(60, requests=20)
    assert world.ledger.stable == "qa-3"
    assert transcript(world) == snapshot


def test_going_back_in_mid_release(snapshot: SnapshotAssertion) -> None:
    world = serving()
    world.publish(2)
    world.want(2)
    world.settle(8, requests=5)
    world.want(1)
    world.settle(10, requests=5)
    assert world.ledger.stable == "qa-1"
    assert world.ledger.release is None
    assert transcript(world) == snapshot


def test_a_model_that_does_not_load(snapshot: SnapshotAssertion) -> None:
    world = serving()
    world.publish(2, loads=False)
    world.want(2)
    world.settle(10, requests=5)
    assert world.ledger.refusal("qa-2")
    assert transcript(world) == snapshot


def test_a_candidate_that_takes_too_long_and_heals(snapshot: SnapshotAssertion) -> None:
    world = serving(progress_deadline_seconds=10)
    world.publish(2, start_seconds=30)
    world.want(2)
    world.settle(80, requests=20)
    assert world.ledger.stable == "qa-2"
    assert transcript(world) == snapshot


def test_a_candidate_whose_pod_is_evicted_goes_on_at_the_same_step(snapshot: SnapshotAssertion) -> None:
    world = serving()
    world.publish(2)
    world.want(2)
    world.settle(6, requests=5)
    world.workloads["qa-2"].down_until = world.now + 15
    world.settle(10, requests=20)
    assert world.ledger.release is not None
    assert world.ledger.release.step == 1
    world.settle(60, requests=20)
    assert world.ledger.stable == "qa-2"
    assert not world.lost
    assert transcript(world) == snapshot


def test_a_candidate_that_crashes_three_times(snapshot: SnapshotAssertion) -> None:
    world = serving()
    world.publish(2)
    world.want(2)
    world.settle(6, requests=5)
    world.workloads["qa-2"].crashed = frozenset({"pod-a", "pod-b", "pod-c"})
    world.settle(5, requests=5)
    assert world.ledger.refusal("qa-2")
    assert transcript(world) == snapshot


def test_a_candidate_that_hangs(snapshot: SnapshotAssertion) -> None:
    world = serving()
    world.publish(2, hang_share=1.0)
    world.want(2)
    world.settle(30, requests=20)
    assert world.ledger.release is not None
    world.settle(140, requests=20)
    assert world.ledger.refusal("qa-2")
    assert set(world.workloads) == {"qa-1"}
    assert not world.lost
    assert transcript(world) == snapshot


def test_no_traffic(snapshot: SnapshotAssertion) -> None:
    world = serving(step_deadline_seconds=60)
    world.publish(2)
    world.want(2)
    world.settle(100)
    assert world.ledger.release is not None
    assert world.ledger.release.paused is not None
    assert transcript(world) == snapshot


def test_the_provider_fails_for_both(snapshot: SnapshotAssertion) -> None:
    world = serving(analysis=Analysis(error_rate=ErrorRate(max_percent=5)))
    world.publish(2)
    world.want(2)
    world.settle(6, requests=20)
    world.provider_failure_rate = 1.0
    world.settle(60, requests=20)
    assert world.ledger.stable == "qa-1"
    assert world.ledger.release is not None
    world.provider_failure_rate = 0.0
    world.settle(150, requests=20)
    assert world.ledger.stable == "qa-2"
    assert transcript(world) == snapshot


def test_stable_cannot_answer_and_the_candidate_can(snapshot: SnapshotAssertion) -> None:
    world = serving()
    world.publish(2)
    world.want(2)
    world.settle(6, requests=5)
    world.workloads["qa-1"].down_until = world.now + 20
    world.settle(10, requests=20)
    assert not world.lost
    assert all(world.effective(pod)["qa-2"] == 10_000 for pod in world.gateways.values())
    world.settle(60, requests=20)
    assert world.ledger.stable == "qa-2"
    assert transcript(world) == snapshot


def test_the_registry_is_down(snapshot: SnapshotAssertion) -> None:
    world = serving()
    world.publish(2)
    world.registry_up = False
    world.want(2)
    world.settle(10, requests=5)
    assert world.ledger.release is None
    world.registry_up = True
    world.settle(60, requests=20)
    assert world.ledger.stable == "qa-2"
    assert transcript(world) == snapshot


def test_the_policy_is_deleted_in_mid_release(snapshot: SnapshotAssertion) -> None:
    world = serving()
    world.publish(2)
    world.want(2)
    world.settle(6, requests=5)
    policy, world.policy = world.policy, None
    world.settle(30, requests=20)
    assert world.ledger.stable == "qa-1"
    world.policy = policy
    world.settle(60, requests=20)
    assert world.ledger.stable == "qa-2"
    assert transcript(world) == snapshot


def test_the_policys_steps_change_in_mid_release(snapshot: SnapshotAssertion) -> None:
    world = serving()
    world.publish(2)
    world.want(2)
    world.settle(6, requests=5)
    world.set_policy(Step(set_weight=100), analysis=Analysis(on_undecided=OnUndecided.PROMOTE))
    world.settle(3, requests=5)
    assert world.ledger.release is not None
    assert world.ledger.release.steps == steps_of(Canary(CANARY))
    world.settle(60, requests=20)
    assert transcript(world) == snapshot


def test_abort(snapshot: SnapshotAssertion) -> None:
    world = serving()
    world.publish(2)
    world.want(2)
    world.settle(6, requests=5)
    world.request = "abort qa-2 once"
    world.settle(10, requests=5)
    assert world.ledger.refusal("qa-2")
    assert transcript(world) == snapshot


def test_a_status_that_is_lost_is_found_again() -> None:
    world = serving()
    world.status, world.memory = {}, None
    world.settle(5)
    assert world.ledger.stable == "qa-1"
    world.status, world.memory, world.routes = {}, None, None
    for pod in world.gateways.values():
        pod.obeyed = None
    world.settle(5)
    assert world.ledger.stable == "qa-1"


@pytest.mark.parametrize("refused_by", ["worse", "abort"])
def test_a_refused_revision_stays_refused_with_and_without_a_policy(refused_by: str) -> None:
    world = serving()
    world.publish(2, failure_rate=1.0 if refused_by == "worse" else 0.0)
    world.want(2)
    world.settle(6, requests=0 if refused_by == "abort" else 20)
    if refused_by == "abort":
        world.request = "abort qa-2 now"
    world.settle(20, requests=20)
    assert world.ledger.refusal("qa-2")
    world.policy = None
    world.settle(20, requests=20)
    assert world.ledger.stable == "qa-1"
    assert "qa-2" not in world.workloads


def test_a_broken_stable_without_a_policy_can_be_replaced() -> None:
    world = serving()
    world.policy = None
    world.versions[1].failure_rate = 1.0
    world.settle(10, requests=20)
    world.publish(2)
    world.want(2)
    world.settle(20, requests=20)
    assert world.ledger.stable == "qa-2"


def test_a_status_lost_in_mid_release_leaves_stable_stable() -> None:
    world = serving(steps=(Step(set_weight=80), Step(pause=Pause(seconds=30))))
    world.publish(2)
    world.want(2)
    world.settle(6, requests=5)
    assert world.routes is not None
    assert world.routes.weight("qa-2") == 8_000
    world.status, world.memory = {}, None
    world.operate()
    assert world.ledger.stable == "qa-1"
    assert "qa-1" in world.workloads
    world.settle(90, requests=20)
    assert world.ledger.stable == "qa-2"
    assert not world.lost


def test_crashes_of_long_ago_are_forgotten() -> None:
    world = serving()
    world.publish(2)
    world.want(2)
    world.settle(6, requests=5)
    for name in ("pod-a", "pod-b", "pod-c"):
        world.workloads["qa-2"].crashed = frozenset({name})
        world.settle(3, requests=5)
        world.workloads["qa-2"].crashed = frozenset()
        world.tick(1_801.0)
        world.settle(1)
    assert world.ledger.refusal("qa-2") is None
    assert world.ledger.release is not None


def test_going_back_to_a_revision_that_crashed_long_ago_is_no_crash() -> None:
    world = serving()
    world.workloads["qa-1"].crashed = frozenset({"pod-a", "pod-b", "pod-c"})
    world.policy = None
    world.publish(2)
    world.want(2)
    for pod in world.gateways.values():
        pod.reachable = False
    world.settle(8)
    assert world.ledger.stable == "qa-2"
    assert "qa-1" in world.workloads
    world.want(1)
    world.settle(10)
    assert world.ledger.refusal("qa-1") is None
    assert world.ledger.stable == "qa-1"


def test_nothing_is_promoted_while_stable_cannot_answer() -> None:
    world = serving(analysis=Analysis(on_undecided=OnUndecided.PROMOTE))
    world.publish(2)
    world.want(2)
    world.settle(4, requests=5)
    world.workloads["qa-1"].down_until = world.now + 60
    world.settle(50, requests=20)
    assert world.ledger.stable == "qa-1"
    assert not world.lost


def test_a_gateway_that_never_confirms_pauses_the_release() -> None:
    world = serving(step_deadline_seconds=30)
    world.publish(2)
    world.want(2)
    world.lag_seconds = 1e9
    world.settle(60)
    assert world.ledger.release is not None
    assert world.ledger.release.paused is not None
    assert world.ledger.release.paused.reason == "StepDeadlineExceeded"
