"""What a release would take: by the tests that judge releases, so it must agree with what they do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from click.testing import CliRunner

from dev.draws import until_lowered
from dspy_operator.__main__ import main
from dspy_operator.api.rollout import (
    Approval,
    BlueGreen,
    Canary,
    CanaryReplicas,
    Mirror,
    Pause,
    ProgramRef,
    RolloutSpec,
    Step,
    Strategy,
    StrategyType,
    Stream,
    Watch,
)
from dspy_operator.domain.forecast import FAULTS, forecast

EXAMPLES = Path(__file__).parents[2] / "manifests" / "examples"
STEPS = (
    Step(set_weight=10),
    Step(pause=Pause(requests=200)),
    Step(set_weight=50),
    Step(pause=Pause(seconds=60)),
    Step(watch=Watch(900)),
)


def policy(strategy: Strategy) -> RolloutSpec:
    """A rollout's spec."""
    return RolloutSpec(ProgramRef("triage"), strategy)


def canary(*steps: Step, replicas: CanaryReplicas = CanaryReplicas.FULL) -> RolloutSpec:
    """A canary's."""
    return policy(Strategy(StrategyType.CANARY, Canary(steps, replicas)))


def test_steps_last_as_long_as_they_say_and_as_their_traffic_allows() -> None:
    found = forecast(canary(*STEPS), 1, rate=20, failing=0.01)
    assert [step.seconds for step in found.steps] == [0, 100, 0, 60, 900]
    assert [step.weight_percent for step in found.steps] == [10, 10, 50, 50, 95]
    assert found.seconds == 1060
    approved = forecast(canary(STEPS[0], Step(pause=Pause(approval=True))), 1, rate=20, failing=0.01)
    assert (approved.steps[1].seconds, approved.seconds) == (None, None)
    idle = forecast(canary(Step(set_weight=0), Step(pause=Pause(requests=5))), 1, rate=20, failing=0.01)
    assert idle.steps[1].seconds is None
    assert idle.steps[1].seen == (None,) * len(FAULTS)


def test_a_fault_that_copies_show_reaches_no_client() -> None:
    mirror = Step(mirror=Mirror(percent=25, seconds=60, requests=1_000))
    found = forecast(canary(mirror, Step(set_weight=20), Step(pause=Pause(requests=200))), 1, rate=20, failing=0.01)
    copied, _, drawn = found.steps
    assert (copied.name, copied.weight_percent, copied.seconds) == ("copy 25 %, 60 s and 1000 copies", 0, 200)
    assert (drawn.weight_percent, drawn.seconds) == (20, 50)
    for seen, later in zip(copied.seen[1:], drawn.seen[1:], strict=True):
        assert seen is not None
        assert later is not None
        assert seen.bad_answers == 0 < later.bad_answers
        assert seen.requests == later.requests, "a quarter of stable's requests is a fifth of all"


def test_pods_are_those_that_the_weight_needs() -> None:
    sized = forecast(canary(*STEPS, replicas=CanaryReplicas.WITH_WEIGHT), 10, rate=20, failing=0.01)
    assert [step.pods for step in sized.steps] == [2, 2, 6, 6, 10]
    assert {step.pods for step in forecast(canary(*STEPS), 10, rate=20, failing=0.01).steps} == {10}


@pytest.mark.parametrize(("weight", "fault"), [(5, 0.05), (5, 0.2), (10, 1.0), (50, 0.2)])
def test_a_fault_is_seen_about_when_the_test_sees_it_in_random_draws(weight: float, fault: float) -> None:
    seen = forecast(canary(Step(set_weight=weight)), 1, rate=20, failing=0.01).steps[0].seen[FAULTS.index(fault)]
    chance = np.random.default_rng(1)
    drawn = median(until_lowered(chance, 0.01, fault, weight / 100, 10_000)[0] for _ in range(200))
    assert seen is not None
    assert drawn / 1.6 <= seen.requests <= drawn * 1.6
    assert seen.seconds == pytest.approx(seen.requests / (20 * weight / 100))


def test_what_fails_no_more_than_stable_is_not_seen_and_is_shown_to_be_no_worse() -> None:
    found = forecast(canary(Step(set_weight=10)), 1, rate=20, failing=0.01)
    assert found.steps[0].seen[FAULTS.index(0.01)] is None
    assert found.proof_requests is not None
    assert 100 < found.proof_requests < 2_000


def test_a_watched_candidate_is_found_by_its_ceiling() -> None:
    watched = forecast(canary(*STEPS), 1, rate=20, failing=0.01).steps[4].seen
    assert all(watched[at] is not None for at in (2, 3))
    assert watched[3] is not None
    assert watched[3].bad_answers < 30, "132 by the label test alone"
    given = canary(*STEPS)
    given = replace(given, analysis=replace(given.analysis, streams=(Stream("failed", max_percent=50),)))
    late = forecast(given, 1, rate=20, failing=0.01).steps[4].seen[2]
    assert late is not None
    assert watched[2] is not None
    assert late.seconds > watched[2].seconds, "a ceiling of 50 % doubts nobody who fails 20 %"


def test_blue_green_waits_for_a_person_and_then_watches() -> None:
    strategy = Strategy(
        StrategyType.BLUE_GREEN, blue_green=BlueGreen(approval=Approval.REQUIRED, warm_seconds=600, holdback_percent=10)
    )
    found = forecast(policy(strategy), 3, rate=20, failing=0.0)
    assert [(step.weight_percent, step.seconds) for step in found.steps] == [(0, None), (90, 600)]


def run(*arguments: str) -> tuple[int, str]:
    """`dspy-operator plan`."""
    result = CliRunner().invoke(main, ["plan", *arguments], env={"COLUMNS": "160"})
    return result.exit_code, result.output


@pytest.mark.parametrize("name", sorted(each.stem for each in EXAMPLES.glob("rollout*.yaml")))
def test_every_example_can_be_planned(name: str) -> None:
    code, told = run("-f", str(EXAMPLES / "program.yaml"), "-f", str(EXAMPLES / f"{name}.yaml"), "--rps", "5")
    assert code == 0, told
    assert "fails 100%" in told
    code, told = run("-f", str(EXAMPLES / f"{name}.yaml"), "--json")
    assert [step["name"] for step in json.loads(told)["steps"]]


def test_a_program_with_conversations_is_said_to_be_judged_by_them(tmp_path: Path) -> None:
    program = (EXAMPLES / "program-conversations.yaml").read_text().replace("support-chat", "support-triage")
    (tmp_path / "program.yaml").write_text(program)
    _, told = run("-f", str(tmp_path / "program.yaml"), "-f", str(EXAMPLES / "rollout.yaml"))
    assert "conversations, are drawn" in told
    assert "To be shown no worse" not in told


def test_wrong_manifests_are_refused_with_their_names(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("kind: [DSPyRollout\n")
    assert "is no YAML" in run("-f", str(broken))[1]
    broken.write_text("kind: DSPyRollout\nspec: {programRef: {name: a}, strategy: {type: Wild}}\n")
    code, told = run("-f", str(broken))
    assert code == 2
    assert "strategy" in told
    code, told = run("-f", str(EXAMPLES / "program.yaml"))
    assert (code, "give one DSPyRollout; there are 0" in told) == (2, True)
    assert run("-f", str(EXAMPLES / "rollout.yaml"), "--rps", "0")[0] == 2
