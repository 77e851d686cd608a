"""The contract between the operator, which writes routes, and the agents, which obey them. Pure; imports nothing of
ours.

The operator writes one ConfigMap per program (`Routes`) and one per namespace (`PortTable`). The agent answers with one
JSON (`GatewayState`): which serial of each program its Envoy has confirmed, and what it has counted. How desired
weights become effective ones, given who can answer, is decided here and nowhere else (`effective_weights`).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from dspy_contract.state import GatewayState

TOTAL_WEIGHT = 10_000
"""All of the traffic, in basis points."""

ROUTES_LABEL = "dspy.dev/routes"
PORTS_LABEL = "dspy.dev/ports"
REVISION_LABEL = "dspy.dev/revision"
PROGRAM_LABEL = "dspy.dev/program"
CONTENT_KEY = "content.json"
STATE_PORT = 9902
RUNTIME_PORT = 8080
FIRST_PORT = 10_000
LAST_PORT = 10_999


@dataclass(frozen=True, slots=True)
class Backend:
    """A revision of the program and its desired weight in basis points."""

    revision: str
    weight: int


@dataclass(frozen=True, slots=True)
class Routes:
    """Where a program's traffic should go. Serials only grow; an agent ignores a smaller one of the same uid.

    `backends` lists stable first: when nobody with weight can answer, the first that can takes the traffic.
    """

    program: str
    uid: str
    serial: int
    timeout_seconds: int
    backends: tuple[Backend, ...]

    def weight(self, revision: str) -> int:
        """The desired weight of a revision in basis points; 0 when it is not listed."""
        return sum(backend.weight for backend in self.backends if backend.revision == revision)


@dataclass(frozen=True, slots=True)
class Port:
    """The listener port of a program. `freed_at` is when the program went (Unix seconds); its port rests for a
    while."""

    program: str
    port: int
    freed_at: float | None = None


@dataclass(frozen=True, slots=True)
class PortTable:
    """Which program, by uid, listens on which port of the namespace's gateway."""

    ports: Mapping[str, Port] = field(default_factory=dict)


def effective_weights(routes: Routes, usable: Collection[str]) -> dict[str, int]:
    """The weights to apply: the desired ones of the revisions that can answer, scaled to 10,000.

    When no revision with weight can answer, the first listed that can takes everything. When none can answer at all,
    the desired weights stand, and clients get the gateway's own 503. Basis points; the result sums to 10,000 unless
    `routes` lists no weight and nobody can answer.
    """
    desired = {backend.revision: backend.weight for backend in routes.backends}
    able = {revision: weight for revision, weight in desired.items() if revision in usable and weight > 0}
    if not able:
        fallback = next((revision for revision in desired if revision in usable), None)
        return (
            desired if fallback is None else {revision: TOTAL_WEIGHT * (revision == fallback) for revision in desired}
        )
    return dict.fromkeys(desired, 0) | _scaled(able)


def next_port(table: PortTable, now: float, rest_seconds: float) -> int:
    """The lowest port that no program holds and that has rested. Raises LookupError when all are taken."""
    taken = {port.port for port in table.ports.values() if port.freed_at is None or now - port.freed_at < rest_seconds}
    for port in range(FIRST_PORT, LAST_PORT + 1):
        if port not in taken:
            return port
    raise LookupError("the namespace's gateway has no free listener port")


def dump(value: Routes | PortTable | GatewayState) -> str:
    """The JSON text of a value of this contract."""
    return json.dumps(asdict(value), separators=(",", ":"), sort_keys=True)


def load_routes(text: str) -> Routes:
    """Reads `dump(Routes)`; unknown fields, of a newer operator, are ignored. Raises ValueError, KeyError, TypeError or
    AttributeError for anything else."""
    content = json.loads(text)
    backends = tuple(
        Backend(str(each["revision"]), _whole(each["weight"], TOTAL_WEIGHT)) for each in content["backends"]
    )
    serial, timeout = _whole(content["serial"]), _whole(content["timeout_seconds"])
    return Routes(str(content["program"]), str(content["uid"]), serial, timeout, backends)


def load_ports(text: str) -> PortTable:
    """Reads `dump(PortTable)`; as forgiving, and as strict, as `load_routes`."""
    ports = json.loads(text)["ports"].items()
    return PortTable(
        {uid: Port(str(port["program"]), _whole(port["port"], 65_535), port.get("freed_at")) for uid, port in ports}
    )


def _whole(value: Any, most: int = 2**62) -> int:
    """A whole number from 0 to `most`. Raises ValueError."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError(f"{value!r} is no whole number from 0 to {most}")
    return value


def _scaled(weights: Mapping[str, int]) -> dict[str, int]:
    """Weights in proportion, summing to 10,000 exactly: the largest remainders get what rounding left over."""
    total = sum(weights.values())
    floors = {name: weight * TOTAL_WEIGHT // total for name, weight in weights.items()}
    by_remainder = sorted(weights, key=lambda name: (-(weights[name] * TOTAL_WEIGHT % total), name))
    for name in by_remainder[: TOTAL_WEIGHT - sum(floors.values())]:
        floors[name] += 1
    return floors
