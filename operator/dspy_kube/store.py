"""Objects as they were last seen or written, by kind, namespace and name: what watches say, and what our writes
answered.

Whoever writes puts the answer in, so a reader sees its own writes; an older resourceVersion is ignored, but in a
listing, which is true up to its own. An object that went is not brought back by an event that comes late; one that only
lost the label by which it is watched may come back, under a later version.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import msgspec

from dspy_kube.client import Object

Name = tuple[str, str]
"""Namespace and name."""

MOST_TOMBSTONES = 10_000


@dataclass(frozen=True, slots=True)
class _Entry:
    """An object as it is kept: packed, since ten thousand programs have a hundred thousand of them."""

    uid: str
    version: int
    group: str
    packed: bytes

    def unpack(self) -> Object:
        """The object, which is whoever's who asks."""
        return dict(msgspec.json.decode(self.packed))


@dataclass(slots=True)
class _Shelf:
    """The objects of one kind in one namespace, and their names by group."""

    entries: dict[str, _Entry] = field(default_factory=dict)
    groups: defaultdict[str, dict[str, None]] = field(default_factory=lambda: defaultdict(dict))


class Store:
    """Holds objects. `project` says what of an object is kept, `group` under which word it is found again;
    `on_change` hears of each whose content is new (kind, before, after), with None for one that is not there."""

    def __init__(
        self,
        on_change: Callable[[str, Object | None, Object | None], None] = lambda kind, before, after: None,
        project: Callable[[str, Object], Object] = lambda kind, item: item,
        group: Callable[[str, Object], str] = lambda kind, item: "",
    ) -> None:
        self._on_change = on_change
        self._project = project
        self._group = group
        self._shelves: defaultdict[str, dict[str, _Shelf]] = defaultdict(dict)
        self._tombstones: dict[str, int] = {}

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """An object; None when it is not there."""
        entry = self._entry(kind, namespace, name)
        return entry.unpack() if entry else None

    def names(self, kind: str) -> list[Name]:
        """Namespace and name of every object of a kind."""
        return [(namespace, name) for namespace, shelf in self._shelves[kind].items() for name in shelf.entries]

    def list(self, kind: str, namespace: str | None = None, group: str | None = None) -> list[Object]:
        """The objects of a kind, in a namespace or in all; with a group, those of it only."""
        shelves = self._shelves[kind]
        chosen = shelves.values() if namespace is None else filter(None, [shelves.get(namespace)])
        if group is None:
            return [entry.unpack() for shelf in chosen for entry in shelf.entries.values()]
        return [shelf.entries[name].unpack() for shelf in chosen for name in shelf.groups.get(group, ())]

    def put(self, kind: str, item: Object, quiet: bool = False, listed_at: str = "") -> None:
        """Takes an object, unless a newer one is known or it is gone already. `quiet`: whoever puts it knows it.

        What a listing of a version found is true whatever was known up to that version: etcd may have been restored
        with versions that go on (`etcdutl snapshot restore --bump-revision`).
        """
        metadata, version = item["metadata"], _version(item)
        true_at = max(version, _number(listed_at))
        if true_at <= self._tombstones.get(metadata["uid"], -1):
            return
        shelf = self._shelves[kind].setdefault(metadata["namespace"], _Shelf())
        before = shelf.entries.get(metadata["name"])
        if before is not None and (before.version == version or before.version > true_at):
            return
        after = self._project(kind, item)
        entry = _Entry(metadata["uid"], version, self._group(kind, after), msgspec.json.encode(after))
        if before is not None:
            _leave(shelf, before.group, metadata["name"])
        shelf.entries[metadata["name"]] = entry
        shelf.groups[entry.group][metadata["name"]] = None
        if quiet:
            return
        old, new = before.unpack() if before else None, entry.unpack()
        if old is None or _content(old) != _content(new):
            self._on_change(kind, old, new)

    def forget(self, kind: str, item: Object) -> None:
        """Drops an object that went, as it was last: that one, and never its successor."""
        metadata, version = item["metadata"], _version(item)
        self._bury(metadata["uid"], version)
        held = self._entry(kind, metadata["namespace"], metadata["name"])
        if held is not None and held.uid == metadata["uid"] and held.version <= version:
            self._remove(kind, metadata["namespace"], metadata["name"])

    def drop(self, kind: str, held: Object | None) -> None:
        """Drops an object as it was held, of which the API server says that it is not there; None is none.

        A later version of it is believed again: only the API server knows.
        """
        if held is not None:
            self.forget(kind, held)

    def retain(self, kind: str, found: Collection[Name], version: str, namespace: str | None = None) -> None:
        """Drops every object of a kind that a listing (of a namespace, or of all) did not find, unless it is newer."""
        at = _number(version)
        shelves = self._shelves[kind]
        names = [(each, name) for each in list(shelves) if namespace in (None, each) for name in shelves[each].entries]
        for place, name in names:
            entry = shelves[place].entries[name]
            if (place, name) not in found and entry.version <= at:
                self._bury(entry.uid, at)
                self._remove(kind, place, name)

    def _entry(self, kind: str, namespace: str, name: str) -> _Entry | None:
        shelf = self._shelves[kind].get(namespace)
        return shelf.entries.get(name) if shelf else None

    def _remove(self, kind: str, namespace: str, name: str) -> None:
        shelf = self._shelves[kind][namespace]
        entry = shelf.entries.pop(name)
        _leave(shelf, entry.group, name)
        if not shelf.entries:
            del self._shelves[kind][namespace]
        self._on_change(kind, entry.unpack(), None)

    def _bury(self, uid: str, version: int) -> None:
        self._tombstones[uid] = max(version, self._tombstones.pop(uid, -1))
        while len(self._tombstones) > MOST_TOMBSTONES:
            del self._tombstones[next(iter(self._tombstones))]


class StoreSink:
    """The store as a watch of one kind sees it, in a namespace or in all."""

    def __init__(self, store: Store, kind: str, namespace: str | None = None) -> None:
        self._store = store
        self._kind = kind
        self._namespace = namespace

    def put(self, item: Object, listed_at: str = "") -> None:
        """An object is there."""
        self._store.put(self._kind, item, listed_at=listed_at)

    def forget(self, item: Object) -> None:
        """An object went."""
        self._store.forget(self._kind, item)

    def retain(self, found: Collection[Name], version: str) -> None:
        """Only these are there."""
        self._store.retain(self._kind, found, version, self._namespace)


def _leave(shelf: _Shelf, group: str, name: str) -> None:
    del shelf.groups[group][name]
    if not shelf.groups[group]:
        del shelf.groups[group]


def _content(item: Object) -> Object:
    """All of an object but its version."""
    return {**item, "metadata": {**item["metadata"], "resourceVersion": ""}}


def _version(item: Object) -> int:
    """resourceVersions of one kind are comparable numbers wherever etcd is behind them, across deletions too."""
    return _number(str(item["metadata"].get("resourceVersion", "0")))


def _number(version: str) -> int:
    return int(version) if version.isdigit() else 0
