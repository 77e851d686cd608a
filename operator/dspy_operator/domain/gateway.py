"""What a namespace's gateway should be: there while the namespace has programs, with one port for each. Pure.

The gateway's objects are planned like everything else: what exists is compared with what should, an object of somebody
else is left alone and told, and each object is created or repaired by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dspy_contract.routes import Port, PortTable, next_port
from dspy_operator.api.reasons import Reason
from dspy_operator.domain.snapshot import Problem

PORT_REST_SECONDS = 600.0
"""How long the port of a program that is gone is not given to another, whose clients may still know it."""

Manifest = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class GatewaySnapshot:
    """A namespace as one pass of its gateway sees it.

    `table` is None where the port table is lost or unreadable; `service_ports` are the target ports of the programs'
    own Services by program uid, from which it is found again: a port of a living program never moves.
    """

    programs: Mapping[str, str]
    """Names by uid."""
    table: PortTable | None
    service_ports: Mapping[str, int] = field(default_factory=dict)
    existing: Mapping[str, Manifest] = field(default_factory=dict)
    """Our own objects by kind."""
    conflicts: Collection[str] = ()
    """The kinds of which somebody else's object has the gateway's name."""


@dataclass(frozen=True, slots=True)
class GatewayPlan:
    """What is to be done: objects to create or apply, objects to delete (kind and uid), and what to tell programs.

    `problems` are by program uid. `wake_after_seconds` is when to look again.
    """

    create: tuple[Manifest, ...] = ()
    apply: tuple[Manifest, ...] = ()
    delete: tuple[tuple[str, str], ...] = ()
    problems: Mapping[str, Problem] = field(default_factory=dict)
    wake_after_seconds: float | None = None


def ports_of(snapshot: GatewaySnapshot, now: float) -> PortTable:
    """The port table that the namespace should have: every living program keeps its port, new ones get a free one."""
    stored = snapshot.table.ports if snapshot.table else _recovered(snapshot)
    ports = {
        uid: _freed(port, uid in snapshot.programs, now)
        for uid, port in stored.items()
        if uid in snapshot.programs or not _rested(port, now)
    }
    for uid in sorted(snapshot.programs.keys() - ports.keys()):
        port = next_port(PortTable(ports), now, PORT_REST_SECONDS)
        if port is None:
            break  # the programs without a port are told so; the others go on
        ports[uid] = Port(snapshot.programs[uid], port)
    return PortTable(ports)


def plan_gateway(snapshot: GatewaySnapshot, table: PortTable, desired: Sequence[Manifest], now: float) -> GatewayPlan:
    """The plan for a namespace whose gateway should consist of the desired objects, the port table among them."""
    if not snapshot.programs:
        ours = [(kind, str(each["metadata"]["uid"])) for kind, each in snapshot.existing.items()]
        return GatewayPlan(delete=tuple(reversed(ours)))
    if snapshot.conflicts:
        name = desired[0]["metadata"]["name"]
        taken = f"{min(snapshot.conflicts)} {name}"
        message = f"{taken} exists and is not ours: the namespace's gateway needs that name; remove it"
        return GatewayPlan(problems=dict.fromkeys(snapshot.programs, Problem(Reason.GATEWAY_REFUSED, message)))
    resting = [port.freed_at for port in table.ports.values() if port.freed_at is not None]
    full = Problem(Reason.NO_PORT, "All ports of the namespace's gateway are taken: use another namespace")
    return GatewayPlan(
        create=tuple(each for each in desired if each["kind"] not in snapshot.existing),
        apply=tuple(each for each in desired if _drifted(snapshot.existing.get(each["kind"]), each)),
        problems={uid: full for uid in snapshot.programs if uid not in table.ports},
        wake_after_seconds=min(resting) + PORT_REST_SECONDS - now if resting else None,
    )


def covers(actual: Any, desired: Any) -> bool:
    """True when an object holds all that is desired; what the API server added beside it does not count."""
    if isinstance(desired, Mapping):
        return isinstance(actual, Mapping) and all(
            key in actual and covers(actual[key], each) for key, each in desired.items()
        )
    if isinstance(desired, list | tuple):
        return (
            isinstance(actual, list)
            and len(actual) == len(desired)
            and all(covers(left, right) for left, right in zip(actual, desired, strict=True))
        )
    return bool(actual == desired)


def _drifted(existing: Manifest | None, desired: Manifest) -> bool:
    return existing is not None and not covers(existing, desired)


def _recovered(snapshot: GatewaySnapshot) -> dict[str, Port]:
    """The ports that the programs' Services still point at, one program a port."""
    ports: dict[str, Port] = {}
    taken: set[int] = set()
    for uid, number in sorted(snapshot.service_ports.items()):
        if uid in snapshot.programs and number not in taken:
            taken.add(number)
            ports[uid] = Port(snapshot.programs[uid], number)
    return ports


def _freed(port: Port, alive: bool, now: float) -> Port:
    if alive:
        return Port(port.program, port.port)
    return Port(port.program, port.port, now if port.freed_at is None else port.freed_at)


def _rested(port: Port, now: float) -> bool:
    return port.freed_at is not None and now - port.freed_at >= PORT_REST_SECONDS
