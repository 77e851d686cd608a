"""Routes that follow routes: the serial that every gateway takes, and all weight with stable, none copied. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from dspy_contract.routes import TOTAL_WEIGHT, Backend, Routes
from dspy_contract.state import GatewayState


def newest_serial(states: Iterable[GatewayState], uid: str, routes: Routes | None) -> int:
    """The greatest serial of a program that its routes or any gateway pod tell of; 0 without any."""
    told = (state.programs[uid].serial for state in states if uid in state.programs)
    return max([routes.serial if routes else 0, *told])


def with_all_at_stable(routes: Routes, newest: int) -> Routes:
    """The routes that follow `newest`, with the whole weight at stable: the release's, or the first without one."""
    return with_none_at(routes, [backend.revision for backend in routes.backends], newest)


def with_none_at(routes: Routes, revisions: Collection[str], newest: int) -> Routes:
    """The routes that follow `newest`, with the weight of these revisions at stable, and no copies."""
    stable = routes.release.stable if routes.release else routes.backends[0].revision
    kept = {
        each.revision: each for each in routes.backends if each.revision not in revisions and each.revision != stable
    }
    left = TOTAL_WEIGHT - sum(each.weight for each in kept.values())
    backends = tuple(
        kept.get(each.revision, Backend(each.revision, left if each.revision == stable else 0))
        for each in routes.backends
    )
    return replace(routes, serial=newest + 1, backends=backends)
