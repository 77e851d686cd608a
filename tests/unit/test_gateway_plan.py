"""The gateway of a namespace: there while it has programs, its objects its own, and no port that moves or is shared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dspy_contract.routes import FIRST_PORT, LAST_PORT, Port, PortTable
from dspy_operator.domain.gateway import GatewayPlan, GatewaySnapshot, is_rolled_out, plan_gateway, ports_of
from dspy_operator.resources.gateway import KINDS, GatewaySettings, gateway, grace_seconds

SETTINGS = GatewaySettings("image", 2, 630, "token")


def desired(table: PortTable) -> list[dict[str, Any]]:
    return gateway("ns", SETTINGS, table)


def existing(table: PortTable) -> dict[str, dict[str, Any]]:
    return {
        each["kind"]: {**each, "metadata": {**each["metadata"], "uid": f"uid-{each['kind']}"}}
        for each in desired(table)
    }


def test_the_objects_are_made_in_the_order_of_their_kinds() -> None:
    assert tuple(each["kind"] for each in desired(PortTable())) == KINDS


def test_without_programs_only_our_own_objects_go_each_by_its_uid() -> None:
    objects = existing(PortTable())
    del objects["ConfigMap"]
    decided = plan_gateway(GatewaySnapshot({}, None, {}, objects, {"ConfigMap"}), PortTable(), [], 0.0)
    assert ("Deployment", "uid-Deployment") in decided.delete
    assert "ConfigMap" not in {kind for kind, _ in decided.delete}


def test_every_program_gets_a_port_and_keeps_it() -> None:
    first = ports_of(GatewaySnapshot({"uid-a": "a"}, None), 0.0)
    second = ports_of(GatewaySnapshot({"uid-a": "a", "uid-b": "b"}, first), 1.0)
    assert second.ports["uid-a"] == first.ports["uid-a"]
    assert second.ports["uid-b"].port != first.ports["uid-a"].port
    assert ports_of(GatewaySnapshot({"uid-a": "a", "uid-b": "b"}, second), 2.0) == second


def test_a_lost_port_table_is_found_again_from_the_services() -> None:
    programs = {"uid-a": "a", "uid-b": "b", "uid-new": "new"}
    found = ports_of(GatewaySnapshot(programs, None, {"uid-b": FIRST_PORT, "uid-a": FIRST_PORT + 1}), 0.0)
    assert found.ports["uid-a"].port == FIRST_PORT + 1
    assert found.ports["uid-b"].port == FIRST_PORT
    assert found.ports["uid-new"].port == FIRST_PORT + 2


def test_a_program_that_goes_frees_its_port_after_a_rest() -> None:
    table = PortTable({"uid-a": Port("a", FIRST_PORT), "uid-b": Port("b", FIRST_PORT + 1)})
    snapshot = GatewaySnapshot({"uid-b": "b"}, table)
    freed = ports_of(snapshot, 100.0)
    assert freed.ports["uid-a"].freed_at == 100.0
    assert plan_gateway(snapshot, freed, desired(freed), 100.0).wake_after_seconds == 600.0
    assert set(ports_of(GatewaySnapshot({"uid-b": "b"}, freed), 701.0).ports) == {"uid-b"}


def test_the_program_too_many_is_told_and_the_others_go_on() -> None:
    programs = {f"uid-{number:04d}": f"p{number}" for number in range(LAST_PORT - FIRST_PORT + 2)}
    snapshot = GatewaySnapshot(programs, None)
    table = ports_of(snapshot, 0.0)
    decided = plan_gateway(snapshot, table, desired(table), 0.0)
    assert len(table.ports) == len(programs) - 1
    assert {uid: problem.reason for uid, problem in decided.problems.items()} == {max(programs): "NoPort"}
    assert decided.create


def test_each_missing_object_is_made_by_itself_and_a_changed_one_is_repaired() -> None:
    table = ports_of(GatewaySnapshot({"uid-a": "a"}, None), 0.0)
    objects = existing(table)
    del objects["Deployment"]
    objects["PodDisruptionBudget"] = {**objects["PodDisruptionBudget"], "spec": {}}
    decided = plan_gateway(GatewaySnapshot({"uid-a": "a"}, table, {}, objects), table, desired(table), 0.0)
    assert [each["kind"] for each in decided.create] == ["Deployment"]
    assert [each["kind"] for each in decided.apply] == ["PodDisruptionBudget"]


def test_nothing_is_written_while_nothing_differs() -> None:
    table = ports_of(GatewaySnapshot({"uid-a": "a"}, None), 0.0)
    decided = plan_gateway(GatewaySnapshot({"uid-a": "a"}, table, {}, existing(table)), table, desired(table), 0.0)
    assert decided == GatewayPlan()


def test_a_strangers_object_is_left_alone_and_the_programs_say_so() -> None:
    table = ports_of(GatewaySnapshot({"uid-a": "a"}, None), 0.0)
    objects = existing(table)
    del objects["Deployment"]
    snapshot = GatewaySnapshot({"uid-a": "a"}, table, {}, objects, {"Deployment"})
    decided = plan_gateway(snapshot, table, desired(table), 0.0)
    assert [*decided.create, *decided.apply, *decided.delete] == []
    assert decided.problems["uid-a"].reason == "GatewayRefused"
    assert "Deployment dspy-gateway" in decided.problems["uid-a"].message


def test_grace_covers_the_longest_request_and_seldom_changes() -> None:
    assert grace_seconds(60) == grace_seconds(300) == 630
    assert grace_seconds(3_600) == 3_660


def test_another_version_of_a_gateway_waits_for_its_turn_and_a_hand_is_taken_back_at_once() -> None:
    table = ports_of(GatewaySnapshot({"uid-a": "a"}, None), 0.0)
    newer = gateway("ns", replace(SETTINGS, image="newer"), table)
    waiting = GatewaySnapshot({"uid-a": "a"}, table, {}, existing(table), may_roll=False)
    decided = plan_gateway(waiting, table, newer, 0.0)
    assert (decided.apply, decided.wake_after_seconds) == ((), 5.0)
    rolled = plan_gateway(replace(waiting, may_roll=True), table, newer, 0.0)
    assert [each["kind"] for each in rolled.apply] == ["Deployment"]
    edited = existing(table)
    edited["Deployment"] = {**edited["Deployment"], "spec": {**edited["Deployment"]["spec"], "replicas": 0}}
    decided = plan_gateway(replace(waiting, existing=edited), table, desired(table), 0.0)
    assert [each["kind"] for each in decided.apply] == ["Deployment"]


@pytest.mark.parametrize(
    ("status", "rolled_out"),
    [
        ({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}, True),
        ({"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}, False),
        ({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 2, "availableReplicas": 2}, False),
        ({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 1}, False),
        ({}, False),
    ],
)
def test_a_gateway_has_been_replaced_when_all_its_pods_are_new_and_answer(
    status: dict[str, int], rolled_out: bool
) -> None:
    deployment = {"metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": status}
    assert is_rolled_out(deployment) is rolled_out
