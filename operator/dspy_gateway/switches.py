"""The switches of candidates: one that nobody has watched for a while has no traffic. Pure but for its own memory.

A poll renews the switch of a release whose tables the guard has just looked at. Times are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from dspy_contract.routes import Routes

SWITCH_SECONDS = 30.0
"""How long a candidate keeps its weight after the guard was last seen to look at its counts; where users are drawn, so
much longer than counts may be missing."""


@dataclass(slots=True)
class Switches:
    """One switch per program, for the release that it was renewed for."""

    renewed: dict[str, tuple[int, float]] = field(default_factory=dict)
    """By program uid: the release, and when."""
    began_at: float = float("-inf")
    """When a pod that knew nothing began. Where users or conversations are drawn it takes their releases for watched
    then, since its first requests come before its first poll, and none may change sides for that."""

    def renew(self, uid: str, release: int, now: float) -> None:
        """The guard watches this release."""
        self.renewed[uid] = (release, now)

    def forget_programs(self, living: Collection[str]) -> None:
        """Forgets programs that are gone."""
        self.renewed = {uid: each for uid, each in self.renewed.items() if uid in living}

    def is_on(self, routes: Routes, now: float) -> bool:
        """True without a release, and while the switch of this release is renewed."""
        if routes.release is None:
            return True
        release, at = self.renewed.get(routes.uid, (-1, 0.0))
        renewed = release == routes.release.id
        if routes.users is None and routes.conversations is None:
            return renewed and now - at < SWITCH_SECONDS
        since = max(at, self.began_at) if renewed else self.began_at
        return now - since < SWITCH_SECONDS + (routes.users.unseen_seconds if routes.users else 0)
