"""What tools that know nothing of DSPy make of a program: kstatus' own code, asked in every state of one."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.cluster.interface import REPOSITORY
from dev.cluster.node.build import go
from tests.simulation.world import NAMESPACE, PROGRAM, World, serving

CHECKER = Path(__file__).with_name("kstatus")
CRD = REPOSITORY / "crds" / "dspyprograms.yaml"
HOLDS = ({"setWeight": 10}, {"pause": {"seconds": 600}})
Object = dict[str, Any]


def first_revision_starts() -> World:
    world = World(steps=HOLDS)
    world.publish(1, start_seconds=60)
    world.want(1)
    world.settle(5)
    return world


def serves() -> World:
    return serving(steps=HOLDS)


def registry_is_away_while_it_serves() -> World:
    world = serves()
    world.registry.up = False
    world.restart_operator()
    world.settle(20)
    return world


def another_version_is_asked_for() -> World:
    """The operator has not seen the spec yet."""
    world = serves()
    world.publish(2)
    world.want(2)
    return world


def release(**behaviour: Any) -> World:
    world = another_version_is_asked_for()
    world.versions[2].__dict__.update(behaviour)
    world.settle(30, rate=20)
    return world


def a_person_pauses() -> World:
    world = release()
    world.set_policy(HOLDS, paused=True)
    world.settle(3)
    return world


def no_counts() -> World:
    world = release()
    world.reachable = False
    world.settle(30)
    return world


def rolled_back() -> World:
    return release(failure_rate=1.0)


def cannot_load() -> World:
    return release(loads=False)


def deadline_exceeded() -> World:
    world = serving(steps=HOLDS, progressDeadlineSeconds=10)
    world.publish(2, start_seconds=600)
    world.want(2)
    world.settle(40)
    return world


def aborted() -> World:
    world = release()
    world.ask(f"abort {world.revision(2)} 1")
    world.settle(5)
    return world


def promoted() -> World:
    world = serving(steps=({"setWeight": 50}, {"pause": {"seconds": 5}}))
    world.publish(2)
    world.want(2)
    world.settle(120, rate=20)
    assert world.stable == 2
    return world


def ledger_of_the_future() -> World:
    world = serves()
    world.edit("dspyprograms", lambda item: item["status"]["release"].update(version=99))
    world.settle(5)
    return world


STATES: dict[Callable[[], World], str] = {
    first_revision_starts: "InProgress",
    serves: "Current",
    registry_is_away_while_it_serves: "Current",
    another_version_is_asked_for: "InProgress",
    release: "InProgress",
    a_person_pauses: "InProgress",
    no_counts: "InProgress",
    rolled_back: "Failed",
    cannot_load: "Failed",
    deadline_exceeded: "Failed",
    aborted: "Failed",
    promoted: "Current",
    ledger_of_the_future: "Failed",
}


def ask(manifests: list[Object]) -> list[str]:
    result = subprocess.run(
        [go(), "run", "."], cwd=CHECKER, input=json.dumps(manifests), capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def manifest_of(world: World) -> Object:
    found = world.api.get("dspyprograms", NAMESPACE, PROGRAM)
    assert found is not None
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def answers() -> dict[str, str]:
    """What kstatus says in every state, and of a program that nobody has looked at."""
    manifests = {}
    for state in STATES:
        world = state()
        manifests[state.__name__] = manifest_of(world)
        world.close()
    schema = yaml.safe_load(CRD.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    fresh = {"metadata": {"name": PROGRAM, "generation": 1}, "status": schema["properties"]["status"]["default"]}
    manifests["fresh"] = fresh
    return dict(zip(manifests, ask(list(manifests.values())), strict=True))


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_kstatus_says_what_is_true(answers: dict[str, str], state: Callable[[], World]) -> None:
    assert answers[state.__name__] == STATES[state]


def test_a_program_that_nobody_has_looked_at_is_in_progress(answers: dict[str, str]) -> None:
    assert answers["fresh"] == "InProgress"
