"""What a gateway's agent takes from the API server, by the shipped rights, and what it keeps when objects go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from dspy_contract.routes import Backend, Port, PortTable, Routes, dump
from dspy_gateway.agent import Agent
from dspy_gateway.settings import Settings
from dspy_gateway.watch import Watcher
from dspy_kube.client import Kube
from tests.integration.gateway import until
from tests.simulation.api import ApiServer

NAMESPACE, UID = "default", "uid-qa"
ROUTES = Routes("qa", UID, 1, 30, (Backend("qa-1", 10_000),))


def config_map(name: str, label: str, content: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": NAMESPACE, "labels": {label: "true"}}
    return {"metadata": metadata, "data": {"content.json": content}}


class Watched:
    """An agent without an Envoy, whose watcher follows an API server in memory."""

    def __init__(self, folder: Path) -> None:
        self.api = ApiServer(role="dspy-gateway")
        self.agent = Agent(Settings(pod="gateway-a", folder=folder, namespace=NAMESPACE))
        self.watcher = Watcher(cast("Kube", self.api), self.agent)


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    result = Watched(tmp_path)
    result.api.put(
        "configmaps", config_map("dspy-gateway", "dspy.dev/ports", dump(PortTable({UID: Port("qa", 10_001)})))
    )
    result.api.put("configmaps", config_map("qa-routes", "dspy.dev/routes", dump(ROUTES)))
    running = asyncio.create_task(result.watcher.run())
    await until(lambda: UID in result.agent.desired.routes, "the routes are known")
    yield result
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await result.agent.close()


async def test_copies_of_routes_and_ports_mean_nothing(watched: Watched) -> None:
    newer = Routes("qa", UID, 9, 30, (Backend("evil", 10_000),))
    watched.api.put("configmaps", config_map("copy-routes", "dspy.dev/routes", dump(newer)))
    watched.api.put("configmaps", config_map("copy", "dspy.dev/ports", dump(PortTable({"other": Port("x", 10_002)}))))
    mine = Routes("qa", UID, 2, 30, (Backend("qa-2", 10_000),))
    watched.api.put("configmaps", config_map("qa-routes", "dspy.dev/routes", dump(mine)))
    await until(lambda: watched.agent.desired.routes[UID].serial == 2, "the newer routes are known")
    assert watched.agent.desired.routes[UID].backends == mine.backends
    assert set(watched.agent.desired.ports.ports) == {UID}


async def test_a_table_or_routes_that_are_deleted_end_nothing_while_the_program_lives(watched: Watched) -> None:
    before = watched.agent.desired
    watched.api.remove("configmaps", NAMESPACE, "dspy-gateway")
    watched.api.remove("configmaps", NAMESPACE, "qa-routes")
    other = Routes("other", "uid-other", 1, 30, (Backend("other-1", 10_000),))
    watched.api.put("configmaps", config_map("other-routes", "dspy.dev/routes", dump(other)))
    await until(lambda: "uid-other" in watched.agent.desired.routes, "the other program is known")
    assert watched.agent.desired.ports == before.ports
    assert watched.agent.desired.routes[UID] == before.routes[UID]


async def test_what_cannot_be_read_leaves_what_stood(watched: Watched) -> None:
    before = watched.agent.desired
    watched.api.put("configmaps", config_map("dspy-gateway", "dspy.dev/ports", "no json"))
    watched.api.put("configmaps", config_map("qa-routes", "dspy.dev/routes", "{}"))
    other = Routes("other", "uid-other", 1, 30, (Backend("other-1", 10_000),))
    watched.api.put("configmaps", config_map("other-routes", "dspy.dev/routes", dump(other)))
    await until(lambda: "uid-other" in watched.agent.desired.routes, "the other program is known")
    assert watched.agent.desired.ports == before.ports
    assert watched.agent.desired.routes[UID] == before.routes[UID]
