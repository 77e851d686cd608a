"""What the operator holds in memory: never older than what it wrote, and never what is gone."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from dspy_kube.client import Kube, Object
from dspy_kube.store import Store, StoreSink
from dspy_kube.watch import HistoryError, Watch
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
    changes: list[tuple[bool, bool]] = []
    store = Store(lambda kind, before, after: changes.append((before is not None, after is not None)))
    store.put("ConfigMap", routes("a", 5))
    store.drop("ConfigMap", store.get("ConfigMap", "ns", "a"))
    store.put("ConfigMap", routes("a", 4))
    assert store.get("ConfigMap", "ns", "a") is None
    store.put("ConfigMap", routes("a", 7, uid="successor"))
    assert store.get("ConfigMap", "ns", "a") is not None
    assert changes == [(False, True), (True, False), (False, True)]


def test_the_late_end_of_an_object_does_not_take_its_successor() -> None:
    store = Store()
    store.put("ConfigMap", routes("a", 5))
    store.put("ConfigMap", routes("a", 9, uid="successor"))
    store.put("ConfigMap", routes("a", 6))
    store.forget("ConfigMap", routes("a", 8))
    assert (store.get("ConfigMap", "ns", "a") or {})["metadata"]["uid"] == "successor"


def test_an_object_that_lost_its_label_and_got_it_back_is_seen_again() -> None:
    store = Store()
    store.put("ConfigMap", routes("a", 5))
    store.forget("ConfigMap", routes("a", 6))
    store.put("ConfigMap", routes("a", 5))
    assert store.get("ConfigMap", "ns", "a") is None, "an event that comes late"
    store.put("ConfigMap", routes("a", 7))
    assert store.get("ConfigMap", "ns", "a") is not None


def test_a_listing_tells_what_is_gone_but_not_of_what_is_newer_than_itself() -> None:
    store = Store()
    for name, version in (("a", 5), ("b", 6), ("c", 9)):
        store.put("ConfigMap", routes(name, version, uid=name))
    store.retain("ConfigMap", {("ns", "a")}, "8")
    assert {item["metadata"]["name"] for item in store.list("ConfigMap", "ns")} == {"a", "c"}


def test_what_is_kept_and_by_which_word_it_is_found() -> None:
    heard: list[str] = []
    store = Store(
        lambda kind, before, after: heard.append(kind),
        lambda kind, item: {name: each for name, each in item.items() if name != "status"},
        lambda kind, item: str(item["data"]["version"]),
    )
    store.put("ConfigMap", {**routes("a", 1), "status": "noise"})
    store.put("ConfigMap", {**routes("a", 1), "status": "more"})
    assert store.list("ConfigMap", "ns", "1") == [routes("a", 1)]
    later = {**routes("a", 2), "data": {"version": "1"}, "status": "of no interest"}
    store.put("ConfigMap", later)
    assert heard == ["ConfigMap"], "a new version alone is no news, but it is the one to write over"
    assert store.list("ConfigMap", "ns", "1")[0]["metadata"]["resourceVersion"] == "2"
    store.put("ConfigMap", routes("a", 3))
    assert (store.list("ConfigMap", "ns", "1"), len(store.list("ConfigMap", "ns", "3"))) == ([], 1)


def test_a_watch_follows_forgets_on_relist_and_survives_faults() -> None:
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)

    async def story() -> None:
        api, store = ApiServer(), Store()
        api.put("configmaps", {"metadata": {"name": "a", "namespace": "ns", "labels": {"dspy.dev/routes": "true"}}})
        selector = {"labelSelector": "dspy.dev/routes"}
        watch = Watch(cast("Kube", api), path("ConfigMap", None), selector, StoreSink(store, "ConfigMap"))
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


def watched(story: Callable[[ApiServer, Watch, Store, VirtualLoop], Awaitable[None]]) -> None:
    """Runs a story of a watch of routes on virtual time."""
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    api, store = ApiServer(), Store()
    api.put("configmaps", {"metadata": {"name": "a", "namespace": "ns", "labels": {"dspy.dev/routes": "true"}}})
    watch = Watch(
        cast("Kube", api), path("ConfigMap", None), {"labelSelector": "dspy.dev/routes"}, StoreSink(store, "ConfigMap")
    )
    loop.run_until_complete(story(api, watch, store, loop))
    loop.close()


def test_a_history_that_became_another_ends_the_watch() -> None:
    async def story(api: ApiServer, watch: Watch, store: Store, loop: VirtualLoop) -> None:
        for data in ({"n": "1"}, {"n": "2"}, {"n": "3"}):
            api.change("configmaps", "ns", "a", functools.partial(dict.update, data=data))
        await watch.list()
        fresh = ApiServer()
        fresh.put("configmaps", {"metadata": {"name": "a", "namespace": "ns", "labels": {"dspy.dev/routes": "true"}}})
        watch._kube = cast("Kube", fresh)
        with pytest.raises(HistoryError, match="etcd was restored"):
            await watch.run()

    watched(story)


def test_a_watch_that_is_refused_backs_off_and_is_silent() -> None:
    async def story(api: ApiServer, watch: Watch, store: Store, loop: VirtualLoop) -> None:
        api._rules = [
            (namespace, {**rule, "verbs": [verb for verb in rule["verbs"] if verb != "watch"]})
            for namespace, rule in api._rules
        ]
        running = asyncio.create_task(watch.run())
        await asyncio.sleep(600)
        assert api.calls["list configmaps"] < 100
        running.cancel()

    watched(story)


def test_what_a_listing_found_is_true_whatever_was_known_before() -> None:
    """As after a restore of etcd with versions that go on: objects are older than those held, the listing is newer."""
    store = Store()
    store.put("ConfigMap", routes("a", 7))
    store.put("ConfigMap", routes("b", 8, uid="b"))
    store.forget("ConfigMap", routes("b", 9, uid="b"))
    sink = StoreSink(store, "ConfigMap")
    sink.put(routes("a", 5), "6")
    assert (store.get("ConfigMap", "ns", "a") or {})["metadata"]["resourceVersion"] == "7", "written since"
    sink.put(routes("a", 5), "1000")
    sink.put(routes("b", 4, uid="b"), "1000")
    assert (store.get("ConfigMap", "ns", "a") or {})["metadata"]["resourceVersion"] == "5"
    assert (store.get("ConfigMap", "ns", "b") or {})["metadata"]["resourceVersion"] == "4"
