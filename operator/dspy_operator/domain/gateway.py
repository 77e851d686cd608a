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
from dspy_operator.domain.drift import difference
from dspy_operator.domain.snapshot import Problem

ROLL_SECONDS = 5.0
"""How soon a gateway asks again whether it may be replaced."""

CONTENT_ANNOTATION = "dspy.dev/content"
"""On the gateway's Deployment, a hash of what it should be: it tells another version of the operator from somebody's
hand, which is taken back at once."""

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
    """Names, by uid, of what has a port: programs and their previews."""
    table: PortTable | None
    service_ports: Mapping[str, int] = field(default_factory=dict)
    existing: Mapping[str, Manifest] = field(default_factory=dict)
    """Our own objects by kind."""
    conflicts: Collection[str] = ()
    """The kinds of which somebody else's object has the gateway's name."""
    may_roll: bool = True
    """No release moves here, and no other namespace's gateway is being replaced. Of a gateway that is not outdated it
    says nothing."""


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
    drifted = [each for each in desired if _drifted(snapshot.existing.get(each["kind"]), each)]
    waiting = [each for each in drifted if not snapshot.may_roll and _rolls(snapshot.existing[each["kind"]], each)]
    wakes = [*(rest + PORT_REST_SECONDS - now for rest in resting), *(ROLL_SECONDS for _ in waiting)]
    return GatewayPlan(
        create=tuple(each for each in desired if each["kind"] not in snapshot.existing),
        apply=tuple(each for each in drifted if each not in waiting),
        problems={uid: full for uid in snapshot.programs if uid not in table.ports},
        wake_after_seconds=min(wakes, default=None),
    )


def is_outdated(snapshot: GatewaySnapshot, desired: Sequence[Manifest]) -> bool:
    """True when the namespace's gateway is of another version of the operator, or of other settings."""
    existing = snapshot.existing
    return any(each["kind"] in existing and _rolls(existing[each["kind"]], each) for each in desired)


def is_rolled_out(deployment: Manifest) -> bool:
    """True when every pod of a Deployment is of its newest template, and can answer."""
    status, replicas = deployment.get("status", {}), deployment["spec"].get("replicas", 1)
    seen = status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
    counts = (status.get("replicas", 0), status.get("updatedReplicas", 0), status.get("availableReplicas", 0))
    return seen and counts == (replicas, replicas, replicas)


def _rolls(existing: Manifest, desired: Manifest) -> bool:
    """True for a Deployment that another version of the operator, or other settings, made."""
    both = [(each["metadata"].get("annotations") or {}).get(CONTENT_ANNOTATION) for each in (existing, desired)]
    return desired["kind"] == "Deployment" and both[0] != both[1]


def _drifted(existing: Manifest | None, desired: Manifest) -> bool:
    return existing is not None and difference(existing, desired) is not None


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
