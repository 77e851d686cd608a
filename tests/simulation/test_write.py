"""Writes that meet another object than they were made for."""

from __future__ import annotations

from typing import Any, cast

import pytest

from dspy_kube.client import ConflictException, Kube
from dspy_kube.store import Store
from dspy_operator.kube.write import Writer
from tests.simulation.api import ApiServer
from tests.simulation.clock import VirtualLoop


def budget(**spec: Any) -> dict[str, Any]:
    labels = {"app.kubernetes.io/managed-by": "dspy-operator"}
    metadata = {"name": "qa-1", "namespace": "ns", "labels": labels}
    return {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata, "spec": spec}


@pytest.mark.parametrize("stranger", [None, {"metadata": {"name": "qa-1", "namespace": "ns"}, "spec": {}}])
def test_an_object_is_applied_as_the_one_that_is_held(loop: VirtualLoop, stranger: dict[str, Any] | None) -> None:
    async def story() -> None:
        api, store = ApiServer(), Store()
        writer = Writer(cast("Kube", api), store, lambda *_: None, lambda: True)
        await writer.apply(budget(minAvailable=1), "qa", create=True)
        await writer.apply(budget(minAvailable=2), "qa")
        held = store.get("PodDisruptionBudget", "ns", "qa-1")
        assert held is not None
        assert held["spec"] == {"minAvailable": 2}
        api.remove("poddisruptionbudgets", "ns", "qa-1")
        if stranger:
            api.put("poddisruptionbudgets", dict(stranger))
        with pytest.raises(ConflictException):
            await writer.apply(budget(minAvailable=3), "qa")
        left = api.get("poddisruptionbudgets", "ns", "qa-1")
        assert left is None if stranger is None else left is not None and left["spec"] == {}
        assert store.get("PodDisruptionBudget", "ns", "qa-1") is None

    loop.run_until_complete(story())
