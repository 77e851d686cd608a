"""Gateways of several namespaces, which an upgrade replaces one after the other."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from dspy_kube.store import Store
from dspy_operator.kube import cache
from dspy_operator.kube.write import Writer
from dspy_operator.reconcile.gateway import LONGEST_ROLL_SECONDS, GatewayReconciler
from dspy_operator.settings import Settings
from tests.simulation.clock import VirtualLoop


def ill(namespace: str) -> dict[str, Any]:
    """A gateway of which one pod of two cannot answer."""
    labels = {"app.kubernetes.io/managed-by": "dspy-operator", "dspy.dev/gateway": "true"}
    metadata = {"name": "dspy-gateway", "namespace": namespace, "uid": namespace, "resourceVersion": "1"}
    status = {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 1}
    return {"metadata": {**metadata, "generation": 1, "labels": labels}, "spec": {"replicas": 2}, "status": status}


@pytest.mark.parametrize("sick", [["a"], ["a", "b"], ["a", "b", "c"]])
def test_namespaces_that_are_ill_hold_up_the_others_for_a_while_only(loop: VirtualLoop, sick: list[str]) -> None:
    async def story() -> float:
        store = Store(project=cache.project, group=cache.group)
        for namespace in sick:
            store.put("Deployment", ill(namespace))
        gateways = GatewayReconciler(store, cast("Writer", None), cast("Settings", None), lambda _: "")
        began = loop.time()
        while gateways._rolls_elsewhere("well"):
            for namespace in sick:
                gateways._rolls_elsewhere(namespace)
            await asyncio.sleep(5)
        return loop.time() - began

    assert loop.run_until_complete(asyncio.wait_for(story(), 7_200)) <= LONGEST_ROLL_SECONDS
