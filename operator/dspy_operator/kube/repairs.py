"""Which objects have to be applied again because somebody changed them, and which only look so.

A difference that applying does not change is the API server's way of writing; it is remembered until the object's spec
changes. One object is applied again at most once a minute.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dspy_kube.client import Object
from dspy_operator.domain.drift import difference

REPAIR_SECONDS = 60.0


@dataclass(slots=True)
class _Applied:
    version: object
    at: float


class Repairs:
    """What was applied again, by uid, and how the object was then."""

    def __init__(self) -> None:
        self._applied: dict[str, _Applied] = {}
        self._compared: dict[str, tuple[object, str | None]] = {}
        """By uid: what was compared last, and what came of it: most passes meet the same."""

    def field(self, item: Object, desired: Mapping[str, Any], named: object) -> str | None:
        """The field of an object that somebody changed; None while it is as desired, or only looks different.

        `named` stands for what is desired: the same name, the same fields.
        """
        uid = item["metadata"]["uid"]
        applied = self._applied.get(uid)
        if applied is not None and applied.version == _version(item):
            return None
        pair = (item["metadata"]["resourceVersion"], named)
        known = self._compared.get(uid)
        if known is None or known[0] != pair:
            known = self._compared[uid] = (pair, difference(item, desired))
        return known[1]

    def is_due(self, item: Object) -> bool:
        """False for an object that was applied again within the last minute."""
        applied = self._applied.get(item["metadata"]["uid"])
        return applied is None or asyncio.get_running_loop().time() - applied.at >= REPAIR_SECONDS

    def record(self, before: Object, after: Object) -> bool:
        """An object was applied again, and is like this now. True when that changed it."""
        self._applied[after["metadata"]["uid"]] = _Applied(_version(after), asyncio.get_running_loop().time())
        return _version(before) != _version(after)

    def forget(self, item: Object) -> None:
        """An object is gone."""
        self._applied.pop(item["metadata"]["uid"], None)
        self._compared.pop(item["metadata"]["uid"], None)


def _version(item: Object) -> object:
    """What changes with an object's spec: its generation, or where it has none its resourceVersion."""
    metadata = item["metadata"]
    return metadata.get("generation") or metadata["resourceVersion"]
