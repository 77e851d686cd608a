"""Objects of somebody else that have a name that one of ours needs: found when we could not create it, and looked at
again ever more rarely until they are gone."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from dspy_kube.client import Object

FIRST_SECONDS, LONGEST_SECONDS = 1.0, 300.0


@dataclass(slots=True)
class _Stranger:
    uid: str
    delay_seconds: float
    due: float


class Strangers:
    """Known strangers by whom they are in the way of: a program, or with no name a namespace's gateway.

    `read` gets one object, None when it is not there; `met` hears for whom a new one was met.
    """

    def __init__(
        self,
        read: Callable[[str, str, str], Awaitable[Object | None]],
        met: Callable[[str, str], None],
    ) -> None:
        self._read = read
        self._met = met
        self._known: defaultdict[tuple[str, str], dict[tuple[str, str], _Stranger]] = defaultdict(dict)

    def note(self, namespace: str, owner: str, kind: str, found: Object) -> None:
        """An object that is not ours has the name of one of ours."""
        metadata = found["metadata"]
        stranger = _Stranger(metadata["uid"], FIRST_SECONDS, _now() + FIRST_SECONDS)
        if self._known[namespace, owner].setdefault((kind, metadata["name"]), stranger) is stranger:
            self._met(namespace, owner)

    def knows(self, namespace: str, owner: str, kind: str, name: str) -> bool:
        """True while an object of somebody else has that name, as far as is known."""
        return (kind, name) in self._known.get((namespace, owner), {})

    def forget(self, namespace: str, owner: str) -> None:
        """The program or the gateway that they were in the way of is gone."""
        self._known.pop((namespace, owner), None)

    async def of(self, namespace: str, owner: str) -> list[tuple[str, str]]:
        """Kind and name of those that are still there, as far as is known; asks for those whose time has come."""
        known = self._known.get((namespace, owner))
        if not known:
            return []
        for (kind, name), stranger in list(known.items()):
            if _now() < stranger.due:
                continue
            found = await self._read(kind, namespace, name)
            if found is None or found["metadata"]["uid"] != stranger.uid:
                del known[kind, name]
                continue
            stranger.delay_seconds = min(stranger.delay_seconds * 2, LONGEST_SECONDS)
            stranger.due = _now() + stranger.delay_seconds
        if not known:
            del self._known[namespace, owner]
        return list(known)

    def due_seconds(self, namespace: str, owner: str) -> float | None:
        """In how many seconds one of them is to be looked at again; None when there is none."""
        known = self._known.get((namespace, owner))
        return max(min(each.due for each in known.values()) - _now(), 0.0) if known else None


def _now() -> float:
    return asyncio.get_running_loop().time()
