"""Objects of somebody else that have a name that one of ours needs: found when we could not create it, and looked at
again ever more rarely until they are gone, or ours."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from dspy_contract.logs import Logger
from dspy_kube.client import UNREACHABLE, ApiException, Object

FIRST_SECONDS, LONGEST_SECONDS = 1.0, 300.0
log = Logger(__name__)


@dataclass(slots=True)
class _Conflict:
    is_ours: Callable[[Object], bool]
    delay_seconds: float
    due: float


class NameConflicts:
    """Known conflicts by who needs the name: a program, or with an empty name a namespace's gateway.

    `held` is what the store holds of an object, `read` asks for one (None when it is not there), `on_conflict`
    hears who has a new one.
    """

    def __init__(
        self,
        held: Callable[[str, str, str], Object | None],
        read: Callable[[str, str, str], Awaitable[Object | None]],
        on_conflict: Callable[[str, str], None],
    ) -> None:
        self._held = held
        self._read = read
        self._on_conflict = on_conflict
        self._known: defaultdict[tuple[str, str], dict[tuple[str, str], _Conflict]] = defaultdict(dict)

    def record(self, namespace: str, owner: str, kind: str, name: str, is_ours: Callable[[Object], bool]) -> None:
        """An object has the name of one of ours and is not; `is_ours` is the test that it failed."""
        conflict = _Conflict(is_ours, FIRST_SECONDS, _now() + FIRST_SECONDS)
        if self._known[namespace, owner].setdefault((kind, name), conflict) is conflict:
            self._on_conflict(namespace, owner)

    def contains(self, namespace: str, owner: str, kind: str, name: str) -> bool:
        """True while an object of somebody else has that name, as far as is known."""
        return (kind, name) in self._known.get((namespace, owner), {})

    def forget(self, namespace: str, owner: str) -> None:
        """The program or the gateway that they were in the way of is gone."""
        self._known.pop((namespace, owner), None)

    async def current(self, namespace: str, owner: str) -> list[tuple[str, str]]:
        """Kind and name of those that are still there, as far as is known; asks for those whose time has come."""
        known = self._known.get((namespace, owner))
        if not known:
            return []
        for (kind, name), conflict in list(known.items()):
            if await self._is_gone(namespace, kind, name, conflict):
                del known[kind, name]
        if not known:
            self.forget(namespace, owner)
        return list(known)

    def due_seconds(self, namespace: str, owner: str) -> float | None:
        """In how many seconds one of them is to be looked at again; None when there is none."""
        known = self._known.get((namespace, owner))
        return max(min(each.due for each in known.values()) - _now(), 0.0) if known else None

    async def _is_gone(self, namespace: str, kind: str, name: str, conflict: _Conflict) -> bool:
        held = self._held(kind, namespace, name)
        if held is not None and conflict.is_ours(held):
            return True
        if _now() < conflict.due:
            return False
        conflict.delay_seconds = min(conflict.delay_seconds * 2, LONGEST_SECONDS)
        conflict.due = _now() + conflict.delay_seconds
        try:
            found = await self._read(kind, namespace, name)
        except (ApiException, *UNREACHABLE) as error:
            log.warning(
                "An object that has a name of ours could not be read", kind=kind, name=name, error=type(error).__name__
            )
            return False
        return found is None or conflict.is_ours(found)


def _now() -> float:
    return asyncio.get_running_loop().time()
