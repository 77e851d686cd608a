"""The real operator, part by part as it ships, against an API server that fails: what the guard must never wait for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from dspy_kube.client import ApiException
from dspy_operator.domain.snapshot import Standstill
from dspy_operator.reconcile.controller import PASSES
from tests.simulation.api import Call, refusal
from tests.simulation.invariants import check
from tests.simulation.world import CANARY, NAMESPACE, PROGRAM, READY, World

STEPS: list[dict[str, Any]] = [
    {"setWeight": 10},
    {"pause": {"requests": 20}},
    {"setWeight": 50},
    {"pause": {"seconds": 600}},
]
KINDS_OF_A_GATEWAY = (
    "serviceaccounts",
    "rolebindings",
    "poddisruptionbudgets",
    "networkpolicies",
    "secrets",
    "configmaps",
    "deployments",
)
QUICK: list[dict[str, Any]] = [{"setWeight": 50}, {"pause": {"seconds": 5}}]


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Version 1 serves under a policy."""
    marker = request.node.get_closest_marker("steps")
    world = World(steps=marker.args[0] if marker else STEPS)
    world.publish(1)
    world.want(1)
    world.settle(15, rate=20)
    assert world.condition("Ready")[0] == "True"
    yield world
    check(world)
    world.close()


def release(world: World, number: int = 2, **behaviour: Any) -> None:
    """Asks for a version and waits until it has half of the traffic."""
    world.publish(number, **behaviour)
    world.want(number)
    world.settle(60)
    assert world.weight(number) == 5_000


def _passes() -> float:
    name = "dspy_operator_passes_total"
    return sum(each.value for metric in PASSES.collect() for each in metric.samples if each.name == name)


def turns_bad(world: World, number: int = 2) -> None:
    world.versions[number].failure_rate = 1.0


@pytest.mark.steps(QUICK)
def test_a_good_version_becomes_stable(world: World) -> None:
    world.publish(2)
    world.want(2)
    world.settle(90)
    assert world.ledger.stable == world.revision(2)
    assert world.condition("Current")[:2] == ("True", "Current")
    assert {"ReleaseStarted", "CandidateReady", "WeightSet", "Promoted"} <= set(world.events())
    assert set(world.api.named("deployments", NAMESPACE)) == {world.revision(2), "dspy-gateway"}


def test_a_bad_version_loses_its_traffic_and_is_refused_when_all_is_answered(world: World) -> None:
    release(world)
    turns_bad(world)
    world.settle(5)
    assert world.weight(2) == 0
    world.settle(10)
    assert world.condition("Current")[:2] == ("False", "RolledBack")
    assert world.condition("Stalled")[0] == "True"
    assert world.routes is not None
    assert world.revision(2) in world.routes.refused


@pytest.mark.parametrize(
    "what", ["services", "deployments", "pods", "controllerrevisions", "dspyrollouts", "dspyprograms"]
)
def test_no_read_that_fails_stops_the_guard(world: World, what: str) -> None:
    release(world)
    world.fail(lambda call: refusal(500, "no") if call.resource == what and call.verb in ("get", "list") else None)
    turns_bad(world)
    world.settle(5)
    assert (world.weight(2), world.traffic(2)) == (0, 0)
    world.heal()
    world.settle(40)
    assert world.condition("Current")[:2] == ("False", "RolledBack")


def test_no_status_write_that_is_refused_stops_the_guard(world: World) -> None:
    release(world)
    world.fail(lambda call: refusal(422, "policy engine") if call.subresource == "status" else None)
    turns_bad(world)
    world.settle(5)
    assert world.traffic(2) == 0


def test_an_admission_webhook_that_fails_holds_up_nothing(world: World) -> None:
    release(world)
    world.fail(
        lambda call: refusal(500, "webhook") if call.verb == "create" and call.resource == "deployments" else None
    )
    world.publish(3)
    world.want(3)
    world.settle(5)
    turns_bad(world)
    world.settle(5)
    assert world.traffic(2) == 0
    world.ask(f"abort {world.revision(2)} 1")
    world.settle(5)
    assert world.ledger.refusal(world.revision(2))


def test_a_child_s_name_that_is_taken_in_mid_release_holds_up_no_way_back(world: World) -> None:
    release(world)
    world.api.remove("services", NAMESPACE, PROGRAM)
    world.api.put("services", {"metadata": {"name": PROGRAM, "namespace": NAMESPACE}, "spec": {"ports": []}})
    world.settle(5)
    assert world.condition("Accepted")[:2] == ("False", "NameTaken")
    assert "paused" in world.status["release"]["release"]
    world.want(1)
    world.settle(5)
    assert world.weight(2) == 0
    assert world.ledger.release is None
    world.want(2)
    world.settle(5)
    assert world.ledger.release is None, "nothing new begins"
    world.want(1)
    world.api.remove("services", NAMESPACE, PROGRAM)
    world.settle(30)
    assert world.condition("Available")[0] == "True"


def test_a_policy_that_cannot_be_read_governs_and_holds(world: World) -> None:
    world.edit("dspyrollouts", lambda item: item["spec"].update(analysis={"onUndecided": "Later"}))
    world.publish(2)
    world.want(2)
    world.settle(30)
    assert world.weight(2) == 0
    assert world.stable == 1
    rollout = world.api.get("dspyrollouts", NAMESPACE, PROGRAM)
    assert rollout is not None
    assert [each["reason"] for each in rollout["status"]["conditions"] if each["type"] == "Accepted"] == ["Unreadable"]


def test_a_spec_that_cannot_be_read_leaves_what_serves_and_the_ledger_alone(world: World) -> None:
    release(world)
    before = world.status["release"]
    world.edit("dspyprograms", lambda item: item["spec"].update(replicas="many"))
    turns_bad(world)
    world.settle(5)
    assert world.condition("Accepted")[:2] == ("False", "Invalid")
    assert world.condition("Available")[0] == "True"
    assert world.traffic(2) == 0, "the guard needs no spec"
    assert world.status["release"]["stable"] == before["stable"]
    world.edit("dspyprograms", lambda item: item["status"]["release"].update(version=99, secret="of the future"))
    world.restart_operator()
    world.settle(10)
    assert world.status["release"]["secret"] == "of the future"


def test_without_counts_a_candidate_has_no_traffic_and_gets_it_back(world: World) -> None:
    release(world)
    world.reachable = False
    world.settle(15)
    assert world.traffic(2) == 0
    world.settle(30)
    assert world.condition("Stalled")[0] == "False"
    assert "CountsMissing" in str(world.status["release"]["release"]["lowered"]["reason"])
    world.reachable = True
    world.settle(60)
    assert world.weight(2) == 5_000


def test_an_operator_that_is_gone_leaves_no_candidate_unwatched(world: World) -> None:
    release(world)
    world.leads = False
    world.settle(40)
    assert world.traffic(2) == 0
    assert world.weight(2) == 5_000


def test_a_ledger_that_nobody_can_read_is_found_again_and_kept(world: World) -> None:
    release(world)
    world.edit("dspyprograms", lambda item: item["status"]["release"].update(serial="many"))
    world.settle(5)
    assert world.ledger.stable == world.revision(1)
    kept = world.api.get("configmaps", NAMESPACE, f"{PROGRAM}-ledger-lost")
    assert kept is not None
    assert '"many"' in kept["data"]["release.json"]


def test_a_newer_ledger_is_never_written_over_and_its_candidate_loses_its_weight(world: World) -> None:
    release(world)
    world.edit("dspyprograms", lambda item: item["status"]["release"].update(version=99, secret="of the future"))
    world.settle(10)
    assert world.status["release"]["secret"] == "of the future"
    assert world.condition("Accepted")[:2] == ("False", "LedgerTooNew")
    assert world.traffic(2) == 0
    before = _passes()
    world.settle(60)
    assert _passes() - before < 10, "nothing that this operator does changes it"


def test_a_release_after_a_lost_status_is_another_one_to_the_gateways(world: World) -> None:
    """Agents still hold the tables of the release that the status forgot."""
    release(world)
    turns_bad(world)
    world.settle(20)
    before = world.ledger.releases
    world.edit("dspyprograms", lambda item: item.pop("status"))
    world.restart_operator()
    world.settle(5)
    world.versions[2].failure_rate = 0.0
    world.ask(f"retry {world.revision(2)} 1")
    world.settle(20)
    assert world.ledger.releases == before + 1
    assert not world.refused(2)


def test_a_lasting_conflict_is_no_hot_loop(world: World) -> None:
    world.fail(lambda call: refusal(409, "no") if call.resource == "dspyprograms" and call.verb == "patch" else None)
    world.publish(2)
    world.want(2)
    before = world.api.calls["patch dspyprograms"]
    world.settle(30)
    assert world.api.calls["patch dspyprograms"] - before < 60


def test_a_clock_that_is_behind_holds_back_no_checkpoint(world: World) -> None:
    release(world)
    world.behind_seconds = 3_600.0
    world.restart_operator()
    world.settle(30)
    assert world.ledger.release is not None
    requests = world.ledger.release.evidence.candidate.requests
    world.settle(30)
    assert world.ledger.release.evidence.candidate.requests > requests


def test_a_lost_status_forgets_no_refusal(world: World) -> None:
    release(world)
    turns_bad(world)
    world.settle(20)
    world.edit("dspyprograms", lambda item: item.pop("status"))
    world.api.remove("dspyrollouts", NAMESPACE, PROGRAM)
    world.restart_operator()
    world.settle(30)
    assert world.ledger.stable == world.revision(1)
    assert world.weight(2) == 0
    world.ask(f"retry {world.revision(2)} 1")
    world.versions[2].failure_rate = 0.0
    world.settle(30)
    assert world.ledger.stable == world.revision(2)


def test_going_back_waits_for_no_registry(world: World) -> None:
    release(world)
    world.registry.up = False
    world.want(1)
    world.settle(10)
    assert world.weight(2) == 0
    assert world.ledger.release is None
    assert world.condition("Current")[0] == "True"


def test_a_uri_that_cannot_be_resolved_freezes_a_release_that_nobody_asks_for(world: World) -> None:
    release(world)
    world.registry.up = False
    world.want(9)
    world.settle(700)
    assert world.ledger.stable == world.revision(1)
    assert world.condition("Current")[1] == "ReleaseInProgress"
    assert "no longer asks" in world.condition("Current")[2]


def test_every_object_of_the_gateway_is_made_again_by_the_shipped_rights(world: World) -> None:
    for resource in KINDS_OF_A_GATEWAY:
        world.api.remove(resource, NAMESPACE, "dspy-gateway")
        world.settle(30)
        world.ask(f"look {resource} 1")
        world.settle(5)
        assert world.api.get(resource, NAMESPACE, "dspy-gateway"), resource


def test_a_lost_port_table_moves_no_port(world: World) -> None:
    before = world.api.get("services", NAMESPACE, PROGRAM)
    world.api.remove("configmaps", NAMESPACE, "dspy-gateway")
    world.settle(10)
    assert world.api.get("services", NAMESPACE, PROGRAM) == before


def test_an_edited_service_of_an_idle_program_is_led_back(world: World) -> None:
    world.settle(20, rate=0)
    before = world.api.get("services", NAMESPACE, PROGRAM)
    assert before is not None
    world.edit("services", lambda item: item["spec"]["ports"][0].update(targetPort=10_999))
    world.settle(10)
    after = world.api.get("services", NAMESPACE, PROGRAM)
    assert after is not None
    assert after["spec"] == before["spec"]


def test_a_restored_cluster_s_routes_are_obeyed_again(world: World) -> None:
    """Gateways know newer routes than the ledger and the ConfigMap, as after a restore of etcd."""
    world.settle(20, rate=0)
    routes = world.routes
    assert routes is not None
    newer = replace(routes, serial=routes.serial + 7, content="of a future that is gone")
    for gateway in world.gateways.values():
        gateway.obeyed = newer
    world.restart_operator()
    world.settle(15)
    assert world.routes is not None
    assert world.routes.serial > newer.serial
    assert {gateway.obeyed for gateway in world.gateways.values()} == {world.routes}
    assert all(gateway.obeyed.content == world.routes.content for gateway in world.gateways.values() if gateway.obeyed)


def test_whoever_writes_routes_first_is_read_and_not_overwritten(world: World) -> None:
    release(world)
    conflicts = 0

    def once(call: Call) -> ApiException | None:
        nonlocal conflicts
        if call.resource == "configmaps" and call.verb == "patch" and conflicts == 0:
            conflicts += 1
            return refusal(409, "the object has been modified")
        return None

    world.fail(once)
    turns_bad(world)
    world.settle(5)
    assert conflicts == 1
    assert world.traffic(2) == 0


@pytest.mark.steps(QUICK)
def test_an_operator_that_restarts_again_and_again_still_promotes(world: World) -> None:
    world.publish(2)
    world.want(2)
    for _ in range(15):
        world.settle(15)
        world.restart_operator()
    assert world.ledger.stable == world.revision(2)
    assert world.events().count("Promoted") == 1


def test_at_rest_nothing_is_written(world: World) -> None:
    world.settle(60, rate=0)
    before = {verb: count for verb, count in world.api.calls.items() if not verb.startswith(("get", "list"))}
    world.settle(60)
    after = {verb: count for verb, count in world.api.calls.items() if not verb.startswith(("get", "list"))}
    assert before == after


@pytest.mark.steps(QUICK)
def test_an_action_that_fails_holds_up_no_independent_one(world: World) -> None:
    world.fail(lambda call: refusal(500, "no") if (call.verb, call.resource) == ("delete", "services") else None)
    world.publish(2)
    world.want(2)
    world.settle(90)
    assert world.stable == 2
    assert world.deployed() == {2}


def test_an_action_that_keeps_failing_holds_up_no_new_revision(world: World) -> None:
    """Here the files of what serves, which the registry does not give any more."""
    world.registry.lost.add("1")
    world.api.remove("secrets", NAMESPACE, f"{world.revision(1)}-artifact")
    world.replace_pods(1)
    world.settle(20)
    assert world.condition("Available")[1] == "SecretNotFound"
    world.publish(2)
    world.want(2)
    world.settle(30)
    assert world.deployed() == {1, 2}


@pytest.mark.steps([{"setWeight": 50}, {"pause": {"seconds": 30}}])
def test_an_action_that_keeps_failing_slows_no_clock(world: World) -> None:
    world.publish(2)
    world.want(2)
    world.settle_until(lambda: world.weight(2) > 0, 30)
    world.fail(lambda call: refusal(500, "no") if (call.verb, call.resource) == ("patch", "services") else None)
    world.edit("services", lambda item: item["spec"]["selector"].update(evil="yes"), world.revision(1))
    world.settle(60, rate=20)
    assert world.stable == 2


def test_a_pod_with_the_gateways_label_is_no_gateway(world: World) -> None:
    """Its counts would be believed, and its silence would keep candidates from traffic."""
    labels = {"dspy.dev/gateway": "true", "app.kubernetes.io/managed-by": "dspy-operator"}
    spec = {"replicas": 1, "template": {"metadata": {"labels": labels}}}
    world.api.put("deployments", {"metadata": {"name": "somebody", "namespace": NAMESPACE}, "spec": spec})
    release(world)
    assert [name for name in world.api.named("pods", NAMESPACE) if name.startswith("somebody")]

    async def carrying() -> frozenset[str]:
        return world.parts.poller.latest(NAMESPACE)[0]

    assert world.loop.run_until_complete(carrying()) == frozenset(world.gateways)


def test_a_clock_that_jumps_skips_no_pause(world: World) -> None:
    release(world)
    before = world.ledger.release
    assert before is not None
    world.behind_seconds = -3_600.0
    world.settle(20)
    after = world.ledger.release
    assert after is not None
    assert (after.step, world.weight(2)) == (before.step, 5_000)
    assert after.step_seconds < before.step_seconds + 60


def reads(world: World) -> dict[str, int]:
    return {call: count for call, count in world.api.calls.items() if call.startswith(("get", "list"))}


@pytest.mark.steps(QUICK)
def test_passes_and_looks_read_nothing(world: World) -> None:
    """A good release, a bad one, and an idle time: everything comes from the store."""
    world.settle(20)
    before = reads(world)
    world.publish(2)
    world.want(2)
    world.settle(60)
    assert world.stable == 2
    world.publish(3, failure_rate=1.0)
    world.want(3)
    world.settle(60)
    assert world.refused(3)
    world.settle(60, rate=0)
    met = world.api.calls["conflicts"]
    extra = {call: count - before.get(call, 0) for call, count in reads(world).items() if count != before.get(call)}
    assert extra.pop("list dspyrollouts") == 2, "before each release its policy is asked for"
    assert sum(extra.values()) <= met <= 2, "else only what a write met instead is read"


def test_an_object_of_ours_that_lost_its_labels_gets_them_back(world: World) -> None:
    """Nobody sees it without them: it is made again, met, and adopted."""
    for resource, name in (("services", world.revision(1)), ("configmaps", "qa-routes"), ("services", PROGRAM)):
        before = world.api.get(resource, NAMESPACE, name)
        world.edit(resource, lambda item: item["metadata"].update(labels={}), name)
        world.settle(15)
        after = world.api.get(resource, NAMESPACE, name)
        assert before is not None
        assert after is not None
        assert (after["metadata"]["uid"], after["metadata"]["labels"]) == (
            before["metadata"]["uid"],
            before["metadata"]["labels"],
        )
        assert world.condition("Available")[0] == "True"


def test_a_name_that_is_taken_from_the_start_is_no_hot_loop() -> None:
    world = World()
    world.api.put("services", {"metadata": {"name": PROGRAM, "namespace": NAMESPACE}, "spec": {"ports": []}})
    world.publish(1)
    world.want(1)
    world.settle(5)
    assert world.condition("Accepted")[1] == "NameTaken"
    before = world.api.calls["patch dspyprograms"]
    world.settle(60)
    assert world.api.calls["patch dspyprograms"] == before
    world.close()


def test_a_stranger_is_looked_at_ever_more_rarely(world: World) -> None:
    world.api.remove("services", NAMESPACE, PROGRAM)
    world.api.put("services", {"metadata": {"name": PROGRAM, "namespace": NAMESPACE}, "spec": {"ports": []}})
    world.settle(30)
    before = world.api.calls["get services"]
    world.settle(1_200)
    assert world.api.calls["get services"] - before <= 10
    world.api.remove("services", NAMESPACE, PROGRAM)
    world.settle(310)
    assert world.condition("Available")[0] == "True"


def test_a_version_of_another_registry_is_another(world: World) -> None:
    before = world.revision(1)
    world.edit("dspyprograms", lambda item: item["spec"]["model"].update(registry="second"))
    world.settle(5)
    assert world.condition("Accepted")[:2] == ("False", "RegistryUnknown")
    assert world.ledger.stable == before
    assert world.condition("Available")[0] == "True"


def test_a_restart_asks_no_registry_for_what_serves(world: World) -> None:
    world.settle(5)
    asked = len(world.registry.asked)
    world.restart_operator()
    world.settle(700)
    assert len(world.registry.asked) == asked


def test_what_of_a_version_is_not_in_force_is_told_and_asked_for_once(world: World) -> None:
    assert world.condition("AsLogged")[:2] == ("True", "AsLogged")
    world.runtimes.left_out = ("branch_idx", "rm")
    release(world)
    status, reason, message = world.condition("AsLogged")
    assert (status, reason) == ("False", "SettingsDropped")
    assert message.startswith(f"Of {world.revision(2)}: ")
    assert message.endswith("branch_idx, rm")
    world.restart_operator()
    world.settle(700)
    assert world.runtimes.asked == [world.revision(1), world.revision(2)]
    assert world.condition("AsLogged")[2] == message


@pytest.mark.steps([{"setWeight": 50}, {"pause": {"seconds": 3600}}])
def test_a_program_that_holds_up_all_requests_is_told_as_an_event_and_not_all_the_time(world: World) -> None:
    def told() -> list[str]:
        events = world.api.named("events", NAMESPACE).values()
        return [event["message"] for event in events if event["reason"] == "EventLoopBlocked"]

    release(world)
    revision = world.revision(2)
    world.runtimes.stood_still[revision] = Standstill(revision, 3.04, 700.0, "triage.py:12 aforward")
    world.settle(120)
    assert told() == [], "that was before it was asked"
    world.runtimes.stood_still[revision] = Standstill(revision, 3.04, 7.0, "triage.py:12 aforward")
    world.settle(540)
    words = "held up all requests of a pod for 3.0 s: its program blocks the event loop at triage.py:12 aforward"
    assert told() == [f"v2 ({revision}) {words}"]
    world.runtimes.stood_still[revision] = Standstill(revision, 3.04, 7.0, "")
    world.fail(lambda call: refusal(500, "no") if call.resource == "dspyprograms" and call.verb == "patch" else None)
    world.settle(100)
    assert len(told()) == 1
    world.heal()
    world.settle(500)
    assert len(told()) == 2, "what was heard while nothing could be written is told as well"
    assert told()[1].endswith("no line of its program did it, so its node may lack CPU")
    world.runtimes.reachable = False
    world.settle(120)
    assert world.weight(2) == 5_000


def test_a_pod_that_does_not_say_what_it_serves_holds_up_nothing(world: World) -> None:
    world.runtimes.reachable = False
    release(world)
    assert world.condition("AsLogged")[:2] == ("Unknown", "Waiting")
    world.runtimes.reachable = True
    world.settle(120)
    assert world.condition("AsLogged")[:2] == ("True", "AsLogged")
    assert world.revision(2) in world.condition("AsLogged")[2]


def test_a_restart_writes_nothing(world: World) -> None:
    """The API server lists objects of built-in kinds without their kind: that is no difference to mend."""
    world.settle(60, rate=0)
    before = world.api.calls.copy()
    world.restart_operator()
    world.settle(60, rate=0)
    written = world.api.calls - before
    assert {name for name in written if name.startswith(("patch", "create", "update", "delete"))} == set()


def test_small_versions_start_without_the_registry(world: World) -> None:
    secret = world.api.get("secrets", NAMESPACE, f"{world.revision(1)}-artifact")
    assert secret is not None
    assert secret["immutable"] is True
    world.registry.up = False
    world.replace_pods(1)
    world.settle(20)
    assert world.condition("Available")[0] == "True"


def test_a_secret_that_is_gone_is_made_again_once_a_pod_waits_for_it(world: World) -> None:
    name = f"{world.revision(1)}-artifact"
    world.api.remove("secrets", NAMESPACE, name)
    world.registry.up = False
    world.replace_pods(1)
    world.settle(60)
    assert world.condition("Available")[1] == "SecretNotFound"
    asked = world.registry.archives
    assert asked <= 15, "a registry that is away is not asked without pause"
    world.registry.up = True
    world.settle(60)
    assert world.api.get("secrets", NAMESPACE, name) is not None
    assert world.condition("Available")[0] == "True"


@pytest.mark.steps(QUICK)
def test_pods_of_a_revision_are_not_all_evicted_at_once(world: World) -> None:
    world.settle(5)
    assert world.api.named("poddisruptionbudgets", NAMESPACE).keys() == {"dspy-gateway"}, "one pod needs none"
    world.edit("dspyprograms", lambda item: item["spec"].update(replicas=3))
    world.settle(5)
    budget = world.api.get("poddisruptionbudgets", NAMESPACE, world.revision(1))
    assert budget is not None
    assert budget["spec"]["selector"]["matchLabels"] == {"dspy.dev/revision": world.revision(1)}
    world.publish(2)
    world.want(2)
    world.settle(120)
    assert world.stable == 2
    assert world.api.named("poddisruptionbudgets", NAMESPACE).keys() == {"dspy-gateway", world.revision(2)}


@pytest.mark.parametrize("resource", ["deployments", "services", "the program's Service"])
def test_what_somebody_changed_is_repaired_and_told_once_a_minute_at_most(world: World, resource: str) -> None:
    name = PROGRAM if resource == "the program's Service" else world.revision(1)
    resource = resource if resource == "deployments" else "services"
    before = world.api.get(resource, NAMESPACE, name)
    assert before is not None

    def change(item: dict[str, Any]) -> None:
        if resource == "deployments":
            item["spec"]["template"]["spec"]["containers"][0]["image"] = "evil:1"
        else:
            item["spec"]["selector"] = {"app": "evil"}

    for _ in range(2):
        world.edit(resource, change, name)
        world.settle(10)
    repaired = world.events().count("Repaired")
    assert repaired == 1
    world.settle(70)
    after = world.api.get(resource, NAMESPACE, name)
    assert after is not None
    assert after["spec"] == before["spec"]
    assert world.events().count("Repaired") == 2


@pytest.mark.steps(QUICK)
def test_refresh_makes_the_revision_anew_and_releases_it(world: World) -> None:
    before = world.ledger.stable
    world.ask("refresh qa-other 1")
    world.settle(5)
    assert world.ledger.stable == before
    assert "does nothing" in world.status["request"]
    world.ask(f"refresh {before} 2")
    world.settle(3)
    assert world.ledger.release is not None
    world.settle(60, rate=20)
    after = world.ledger.stable
    assert after is not None
    assert after != before
    assert world.stable == 1, "of the same version"
    world.edit("dspyprograms", lambda item: item.update(status={}))
    world.restart_operator()
    world.settle(30)
    assert world.ledger.stable == after, "a lost status takes nothing back"
    assert world.ledger.release is None


@pytest.mark.steps(QUICK)
def test_an_upgrade_replaces_no_gateway_while_a_release_moves(world: World) -> None:
    def image() -> str:
        gateway = world.api.get("deployments", NAMESPACE, "dspy-gateway")
        assert gateway is not None
        return str(gateway["spec"]["template"]["spec"]["containers"][0]["image"])

    world.publish(2)
    world.want(2)
    world.settle_until(lambda: world.weight(2) > 0, 30)
    world.gateway_image = "gateway:2"
    world.restart_operator()
    world.settle(3, rate=20)
    assert (image(), world.ledger.release is not None) == ("gateway:1", True)
    world.settle(90, rate=20)
    assert world.stable == 2
    assert image() == "gateway:2"


# What a stranger's experiments found in the store.


@pytest.mark.parametrize("resource", ["dspyprograms", "deployments", "configmaps"])
def test_a_404_that_is_not_true_makes_nothing_forgotten(world: World, resource: str) -> None:
    """As of a proxy on the way: the API server itself names what is not there."""
    release(world)
    world.fail(lambda call: refusal(404, "no route") if call.resource == resource and call.verb != "list" else None)
    turns_bad(world)
    world.settle(20)
    world.heal()
    world.settle(60)
    assert world.api.get("deployments", NAMESPACE, "dspy-gateway") is not None
    assert world.refused(2)
    assert world.condition("Available")[0] == "True"


def test_a_policy_that_is_heard_of_late_governs_all_the_same(world: World) -> None:
    world.delete_policy()
    world.settle(5)
    world.parts.take = lambda kind, event, item: (  # type: ignore[method-assign]
        None if kind == "DSPyRollout" else type(world.parts).take(world.parts, kind, event, item)
    )
    world.publish(2, failure_rate=1.0)
    world.set_policy(CANARY)
    world.want(2)
    world.settle(30, rate=20)
    assert world.stable == 1
    assert world.refused(2)


def test_a_policy_that_is_heard_of_late_governs_a_release_that_takes_over_from_another(world: World) -> None:
    release(world)
    world.delete_policy()
    world.settle(5)
    world.parts.take = lambda kind, event, item: (  # type: ignore[method-assign]
        None if kind == "DSPyRollout" else type(world.parts).take(world.parts, kind, event, item)
    )
    world.publish(3)
    world.set_policy([{"setWeight": 5}, {"pause": {"seconds": 600}}])
    world.want(3)
    world.settle(30, rate=20)
    assert world.weight(3) == 500


@pytest.mark.parametrize(
    ("resource", "name"), [("services", PROGRAM), ("networkpolicies", "dspy-gateway"), ("configmaps", "dspy-gateway")]
)
def test_a_stranger_that_becomes_ours_is_none(world: World, resource: str, name: str) -> None:
    found = world.api.get(resource, NAMESPACE, name)
    assert found is not None
    metadata = {each: found["metadata"].get(each) for each in ("labels", "ownerReferences")}
    world.edit(resource, lambda item: item["metadata"].update(labels={}, ownerReferences=[]), name)
    world.settle(20)
    assert world.condition("Available")[0] == "False"
    world.edit(resource, lambda item: item["metadata"].update(metadata), name)
    world.settle(20)
    assert world.condition("Available")[0] == "True"


def test_labels_that_could_not_be_given_back_at_once_are_given_back(world: World) -> None:
    world.loop.run_until_complete(world._end_operator())
    world.edit("configmaps", lambda item: item["metadata"].update(labels={}), "qa-routes")
    failed = 0

    def once(call: Call) -> ApiException | None:
        nonlocal failed
        failed += call.resource == "configmaps" and call.verb == "patch"
        return refusal(500, "no") if failed == 1 and call.resource == "configmaps" and call.verb == "patch" else None

    world.fail(once)
    world.loop.run_until_complete(world._start_operator())
    world.settle(60)
    routes = world.api.get("configmaps", NAMESPACE, "qa-routes")
    assert routes is not None
    assert routes["metadata"]["labels"]["dspy.dev/routes"] == "true"


def test_going_back_to_a_revision_of_an_older_operator_waits_for_no_registry(world: World) -> None:
    release(world)
    for name in world.api.named("controllerrevisions", NAMESPACE):
        world.edit("controllerrevisions", lambda item: item["data"]["model"].pop("registry"), name)
    world.registry.up = False
    world.want(1)
    world.settle(10)
    assert world.ledger.release is None
    assert world.stable == 1


def test_content_that_nobody_can_read_ends_no_watch(world: World) -> None:
    labels = {"app.kubernetes.io/managed-by": "dspy-operator", "dspy.dev/routes": "true"}
    content = '{"x":' + "[" * 20_000 + "]" * 20_000 + "}"
    manifest = {"metadata": {"name": "x-routes", "namespace": NAMESPACE, "labels": labels}}
    world.api.put("configmaps", {**manifest, "data": {"content.json": content}})
    world.settle(5)
    release(world)
    assert world.weight(2) == 5_000


def test_a_stranger_that_cannot_be_looked_at_holds_up_no_abort(world: World) -> None:
    release(world)
    world.api.remove("services", NAMESPACE, PROGRAM)
    world.api.put("services", {"metadata": {"name": PROGRAM, "namespace": NAMESPACE}, "spec": {"ports": []}})
    world.settle(5)
    world.fail(lambda call: refusal(500, "no") if (call.verb, call.resource) == ("get", "services") else None)
    world.ask(f"abort {world.revision(2)} 1")
    world.settle(10)
    assert world.weight(2) == 0


# What a second stranger's experiments found.


@pytest.mark.parametrize("up", [True, False])
def test_after_a_refresh_of_the_candidate_stable_is_still_the_way_back(world: World, up: bool) -> None:
    stable = world.ledger.stable
    release(world)
    world.ask(f"refresh {world.revision(2)} 1")
    world.settle(60)
    assert world.ledger.release is not None
    candidate = world.ledger.release.candidate
    world.registry.up = up
    world.want(1)
    world.settle(30)
    assert world.routes is not None
    assert world.routes.backend(candidate).weight == 0
    assert world.ledger.stable == stable
    assert not world.ledger.release


def test_after_a_refresh_with_another_lm_stable_is_still_the_way_back(world: World) -> None:
    stable, lm = world.ledger.stable, "openai/another"
    before = (world.api.get("dspyprograms", NAMESPACE, PROGRAM) or {})["spec"]["lm"]["model"]
    world.edit("dspyprograms", lambda item: item["spec"]["lm"].update(model=lm))
    world.settle(30)
    assert world.ledger.release is not None
    world.registry.up = False
    world.ask(f"refresh {world.ledger.release.candidate} 1")
    world.settle(20)
    world.edit("dspyprograms", lambda item: item["spec"]["lm"].update(model=before))
    world.settle(20)
    assert world.ledger.stable == stable
    assert not world.ledger.release


def test_rollouts_that_cannot_be_listed_hold_up_no_abort(world: World) -> None:
    release(world)
    world.fail(lambda call: refusal(500, "no") if (call.verb, call.resource) == ("list", "dspyrollouts") else None)
    world.publish(3)
    world.want(3)
    world.settle(5)
    world.ask(f"abort {world.revision(2)} 1")
    world.settle(20)
    assert world.weight(2) == 0
    before = world.api.calls.copy()
    world.settle(60)
    for what in ("list dspyrollouts", "patch dspyprograms", "create deployments"):
        assert world.api.calls[what] - before[what] <= 30, "no hot loop"
    world.heal()
    world.settle(60)
    assert world.weight(3) == 5_000


def test_a_silent_pod_is_out_of_sight_though_its_readiness_comes_and_goes(world: World) -> None:
    release(world)
    silent, probe = next(iter(world.gateways)), world._probe
    ready = True

    def flapping(name: str, item: dict[str, Any]) -> None:
        if name == silent:
            world.edit("pods", lambda item: item["status"].update(conditions=[READY] if ready else []), name)
        else:
            probe(name, item)

    world._probe = flapping  # type: ignore[method-assign]
    world.gateways[silent].reachable = False
    for _ in range(4):
        world.settle(4)
        ready = not ready
    assert world.weight(2) == 0


def test_a_fight_over_the_gateways_objects_is_no_hot_loop(world: World) -> None:
    world.settle(60, rate=0)
    kubelet = world._kubelet

    def fighting() -> None:
        gateway = world.api.get("deployments", NAMESPACE, "dspy-gateway")
        if gateway is not None and gateway["spec"]["replicas"] != 3:
            world.edit("deployments", lambda item: item["spec"].update(replicas=3), "dspy-gateway")
        kubelet()

    world._kubelet = fighting  # type: ignore[method-assign]
    before = world.api.calls["patch deployments"]
    world.settle(300)
    assert 4 <= world.api.calls["patch deployments"] - before <= 7


@pytest.mark.parametrize("model", [{"registry": "second"}, {"uri": "nonsense"}, {"uri": 7}])
def test_a_registry_is_asked_for_nothing_that_nobody_wants(world: World, model: dict[str, Any]) -> None:
    world.edit("dspyprograms", lambda item: item["spec"]["model"].update(uri="models:/qa@champion"))
    world.settle(30)
    world.edit("dspyprograms", lambda item: item["spec"]["model"].update(model))
    world.settle(10)
    asked = len(world.registry.asked)
    assert asked > 0
    world.settle(600)
    assert len(world.registry.asked) == asked


def test_a_clock_that_goes_back_makes_no_refusal_of_pods_last(world: World) -> None:
    world.fail(lambda call: refusal(403, "quota") if (call.verb, call.full) == ("create", "deployments") else None)
    world.publish(2)
    world.want(2)
    world.settle(15)
    assert world.condition("Accepted")[1] == "InvalidPod"
    world.heal()
    world.behind_seconds = 3_600.0
    world.settle(30)
    assert world.ledger.release is not None


def test_a_process_without_its_lease_writes_nothing(world: World) -> None:
    release(world)
    before = world.api.calls.copy()
    world.leads = False
    turns_bad(world)
    world.ask(f"abort {world.revision(2)} 1")
    world.settle(5)
    written = world.api.calls - before
    assert {name for name in written if name.startswith(("patch", "create", "update", "delete"))} == set()
