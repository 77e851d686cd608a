"""The gateway of a namespace: there while it has programs, a port for each, and no port given twice too soon."""

from __future__ import annotations

from dspy_contract.routes import FIRST_PORT, Port, PortTable
from dspy_operator.domain.gateway import plan_gateway
from dspy_operator.resources.gateway import grace_seconds


def test_without_programs_no_gateway_is_needed() -> None:
    assert not plan_gateway({}, PortTable({"a": Port("a", FIRST_PORT)}), 0.0).needed


def test_every_program_gets_a_port_and_keeps_it() -> None:
    first = plan_gateway({"uid-a": "a"}, None, 0.0).table
    assert first is not None
    second = plan_gateway({"uid-a": "a", "uid-b": "b"}, first, 1.0).table
    assert second is not None
    assert second.ports["uid-a"] == first.ports["uid-a"]
    assert second.ports["uid-b"].port != first.ports["uid-a"].port
    assert plan_gateway({"uid-a": "a", "uid-b": "b"}, second, 2.0).table is None


def test_a_program_that_goes_frees_its_port_after_a_rest() -> None:
    table = PortTable({"uid-a": Port("a", FIRST_PORT), "uid-b": Port("b", FIRST_PORT + 1)})
    freed = plan_gateway({"uid-b": "b"}, table, 100.0)
    assert freed.table is not None
    assert freed.table.ports["uid-a"].freed_at == 100.0
    assert freed.wake_after_seconds == 600.0
    later = plan_gateway({"uid-b": "b"}, freed.table, 701.0)
    assert later.table is not None
    assert set(later.table.ports) == {"uid-b"}


def test_grace_covers_the_longest_request_and_seldom_changes() -> None:
    assert grace_seconds(60) == grace_seconds(80) == 120
    assert grace_seconds(300) == 630
    assert grace_seconds(3_600) == 3_660
