"""What a namespace's gateway should be: there while the namespace has programs, with one port for each. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dspy_contract.routes import Port, PortTable, next_port

PORT_REST_SECONDS = 600.0
"""How long the port of a program that is gone is not given to another, whose clients may still know it."""


@dataclass(frozen=True, slots=True)
class GatewayPlan:
    """The port table to write (None: leave it), whether the gateway is needed at all, and when to look again."""

    needed: bool
    table: PortTable | None
    wake_after_seconds: float | None = None


def plan_gateway(programs: Mapping[str, str], table: PortTable | None, now: float) -> GatewayPlan:
    """The gateway of a namespace whose programs are `programs` (uid -> name) and whose port table is `table`."""
    if not programs:
        return GatewayPlan(needed=False, table=None)
    known = (table or PortTable()).ports
    ports = {
        uid: _freed(port, uid in programs, now)
        for uid, port in known.items()
        if not _rested(port, uid in programs, now)
    }
    for uid in sorted(programs.keys() - ports.keys()):
        ports[uid] = Port(programs[uid], next_port(PortTable(ports), now, PORT_REST_SECONDS))
    resting = [port.freed_at for port in ports.values() if port.freed_at is not None]
    wake = min(resting) + PORT_REST_SECONDS - now if resting else None
    return GatewayPlan(True, PortTable(ports) if ports != known or table is None else None, wake)


def _freed(port: Port, alive: bool, now: float) -> Port:
    if alive:
        return Port(port.program, port.port)
    return Port(port.program, port.port, now if port.freed_at is None else port.freed_at)


def _rested(port: Port, alive: bool, now: float) -> bool:
    return not alive and port.freed_at is not None and now - port.freed_at >= PORT_REST_SECONDS
