"""Objects as they were last seen or written, by kind, namespace and name: what a watch says, and what our writes
answered.

Whoever writes puts the answer in, so a reader sees its own writes; an older resourceVersion is ignored. An object that
was deleted is not brought back by an event that comes late.
"""

from __future__ import annotations

from collections.abc import Callable

from dspy_kube.client import Object

Key = tuple[str, str, str]
"""Kind, namespace, name."""

MOST_TOMBSTONES = 10_000


class Store:
    """Holds objects. `on_change` hears of each that is new to it, with None for one that went."""

    def __init__(self, on_change: Callable[[Key, Object | None], None] = lambda key, item: None) -> None:
        self._objects: dict[Key, Object] = {}
        self._tombstones: dict[str, None] = {}
        self._on_change = on_change

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """An object; None when it is not there."""
        return self._objects.get((kind, namespace, name))

    def list(self, kind: str, namespace: str) -> list[Object]:
        """The objects of a kind in a namespace."""
        return [item for key, item in self._objects.items() if key[0] == kind and key[1] == namespace]

    def put(self, kind: str, item: Object) -> None:
        """Takes an object, unless a newer one is known or it is gone already."""
        metadata = item["metadata"]
        key = (kind, metadata["namespace"], metadata["name"])
        if metadata["uid"] in self._tombstones:
            return
        stored = self._objects.get(key)
        if stored is not None and _version(stored) >= _version(item):
            return
        self._objects[key] = item
        self._on_change(key, item)

    def forget(self, kind: str, namespace: str, name: str, uid: str | None = None) -> None:
        """Drops an object that is gone: the one of that uid, and never its successor; None is whichever is held."""
        key = (kind, namespace, name)
        stored = self._objects.get(key)
        held = stored["metadata"]["uid"] if stored is not None else None
        self._bury(uid or held)
        if stored is not None and uid in (None, held):
            del self._objects[key]
            self._on_change(key, None)

    def _bury(self, uid: str | None) -> None:
        if uid is not None:
            self._tombstones[uid] = None
        while len(self._tombstones) > MOST_TOMBSTONES:
            del self._tombstones[next(iter(self._tombstones))]


def _version(item: Object) -> int:
    """resourceVersions of one kind are comparable numbers wherever etcd is behind them, across deletions too."""
    version = str(item["metadata"].get("resourceVersion", "0"))
    return int(version) if version.isdigit() else 0
