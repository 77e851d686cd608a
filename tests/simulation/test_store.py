"""What the operator holds in memory: never older than what it wrote, and never what is gone."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from dspy_kube.client import Kube, Object
from dspy_kube.store import Store
from dspy_kube.watch import Watch
from dspy_operator.kube.paths import path
from tests.simulation.api import ApiServer, refusal
from tests.simulation.clock import VirtualLoop


def routes(name: str, version: int = 1, uid: str = "u") -> Object:
    metadata = {"name": name, "namespace": "ns", "uid": uid, "resourceVersion": str(version)}
    return {"metadata": {**metadata, "labels": {"dspy.dev/routes": "true"}}, "data": {"version": str(version)}}


def test_an_older_version_is_ignored_and_our_own_write_is_seen() -> None:
    store = Store()
    store.put("ConfigMap", routes("a", 5))
    store.put("ConfigMap", routes("a", 4))
    assert (store.get("ConfigMap", "ns", "a") or {})["data"] == {"version": "5"}


def test_an_object_that_went_is_not_brought_back_by_a_late_event_but_its_successor_is_taken() -> None:
    changes: list[tuple[str, bool]] = []
    store = Store(lambda key, item: changes.append((key[2], item is not None)))
    store.put("ConfigMap", routes("a", 5))
    store.forget("ConfigMap", "ns", "a")
    store.put("ConfigMap", routes("a", 6))
    assert store.get("ConfigMap", "ns", "a") is None
    store.put("ConfigMap", routes("a", 7, uid="successor"))
    assert store.get("ConfigMap", "ns", "a") is not None
    assert changes == [("a", True), ("a", False), ("a", True)]


def test_the_late_end_of_an_object_does_not_take_its_successor() -> None:
    store = Store()
    store.put("ConfigMap", routes("a", 5))
    store.put("ConfigMap", routes("a", 9, uid="successor"))
    store.put("ConfigMap", routes("a", 6))
    store.forget("ConfigMap", "ns", "a", "u")
    assert (store.get("ConfigMap", "ns", "a") or {})["metadata"]["uid"] == "successor"


def test_a_watch_follows_forgets_on_relist_and_survives_faults() -> None:
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)

    async def story() -> None:
        api, store = ApiServer(), Store()
        api.put("configmaps", {"metadata": {"name": "a", "namespace": "ns", "labels": {"dspy.dev/routes": "true"}}})
        watch = Watch(
            cast("Kube", api),
            path("ConfigMap", None),
            "dspy.dev/routes",
            lambda item: store.put("ConfigMap", item),
            lambda namespace, name, uid: store.forget("ConfigMap", namespace, name, uid),
        )
        running = asyncio.create_task(watch.run())
        await watch.listed.wait()
        labels: dict[str, Any] = {"dspy.dev/routes": "true"}
        api.put("configmaps", {"metadata": {"name": "b", "namespace": "ns", "labels": labels}})
        api.put("configmaps", {"metadata": {"name": "other", "namespace": "ns", "labels": {}}})
        await asyncio.sleep(1)
        assert {item["metadata"]["name"] for item in store.list("ConfigMap", "ns")} == {"a", "b"}
        running.cancel()
        api.remove("configmaps", "ns", "a")
        api.faults.append(lambda call, query: refusal(500, "no") if loop.time() < 5 else None)
        running = asyncio.create_task(watch.run())
        await asyncio.sleep(10)
        assert {item["metadata"]["name"] for item in store.list("ConfigMap", "ns")} == {"b"}
        running.cancel()

    loop.run_until_complete(story())
    loop.close()
