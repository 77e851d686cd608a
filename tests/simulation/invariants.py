"""Invariants that can be seen from outside at any moment, or at rest; numbered as in docs/architecture.md."""

from __future__ import annotations

from dspy_contract.routes import CONTENT_KEY, GATEWAY_NAME, TOTAL_WEIGHT, Backend, load_ports
from dspy_contract.stat_names import mirrored
from dspy_gateway.switches import SWITCH_SECONDS
from dspy_operator.api.names import GATEWAY_LABEL
from tests.simulation.world import NAMESPACE, World

SWITCHED_SECONDS = SWITCH_SECONDS + 0.2
"""The agent's own limit, and a tick of the simulation."""


def check(world: World) -> None:
    """The invariants that need no time to come true."""
    assert not world.lost, f"1 and 5: {world.lost[:3]}"
    routes, ledger = world.routes, world.ledger
    if routes is None:
        return
    assert sum(backend.weight for backend in routes.backends) == TOTAL_WEIGHT, "4: desired weights sum to 10,000"
    for refused in ledger.refused:
        if refused.revision != ledger.stable:
            nothing = Backend(refused.revision, 0)
            assert routes.backend(refused.revision) == nothing, "9: a refused revision has no weight, and no copies"
    for gateway in world.gateways.values():
        candidates = gateway.obeyed.candidates if gateway.obeyed else ()
        stable_can_answer = routes.release is not None and routes.release.stable in world.ready_pods()
        names = [name for candidate in candidates for name in (candidate, mirrored(candidate))]
        if stable_can_answer and any(gateway.effective.get(name, 0) for name in names):
            renewed, longest = gateway.switches.renewed.get(routes.uid, (0, 0.0))[1], SWITCHED_SECONDS
            if routes.users:
                renewed, longest = max(renewed, gateway.switches.began_at), longest + routes.users.unseen_seconds
            unseen = world.now - renewed
            assert unseen <= longest, f"3: {gateway.pod} sends traffic to a candidate, unseen for {unseen} s"
    table = world.api.get("configmaps", NAMESPACE, GATEWAY_NAME)
    if table is not None:
        assert table["metadata"]["labels"][GATEWAY_LABEL] == "true"
        ports = load_ports(table["data"][CONTENT_KEY]).ports
        assert len({port.port for port in ports.values()}) == len(ports), "13: no port is shared"


def check_at_rest(world: World) -> None:
    """What must hold once the operator has had a few undisturbed seconds."""
    check(world)
    routes, ledger = world.routes, world.ledger
    if routes is None or ledger.stable is None:
        return
    candidates = {*ledger.release.candidates} if ledger.release else set()
    for backend in routes.backends:
        if backend.revision not in {ledger.stable, *candidates}:
            assert backend == Backend(backend.revision, 0), "7: who goes back has lost its weight"
    if ledger.release:
        assert not any(map(ledger.refusal, candidates)), "9: refused stays refused"
        stable = world.api.get("deployments", NAMESPACE, ledger.stable)
        assert stable is not None
        assert stable["spec"]["replicas"] == world.replicas, "6: stable keeps its capacity"
