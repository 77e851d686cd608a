"""How many calls of an endpoint may be under way: as many as come, until its provider says that it is too many.

A provider's limit is shared by all pods, so each slows down by itself: what it had under way is cut at every refusal
(multiplicative decrease) and grows by one in the time of a round (additive increase), as TCP does.
"""

from __future__ import annotations

import math

from dspy_runtime.turns import Turns

DECREASE = 0.7


class Throttle:
    """Of one endpoint, for the callers on one event loop. A call holds the number of the round that it began in."""

    def __init__(self) -> None:
        self._most = math.inf
        self._running = 0
        self._round = 0
        self._turns = Turns(self._gone)

    @property
    def most(self) -> float:
        """Calls that may be under way; infinite until the provider refuses one."""
        return self._most

    @property
    def binds(self) -> bool:
        """True while the provider has said that it is too many."""
        return self._most < math.inf

    async def enter(self) -> int:
        """Waits until one more call may go out; returns the round that it belongs to."""
        if self._turns or not self._has_room():
            await self._turns.wait()  # whoever gives the turn has counted it
        else:
            self._running += 1
        return self._round

    def leave(self, began_in: int, refused: bool = False, answered: bool = False) -> None:
        """A call has ended: refused for its provider's limit, answered, or neither. Refusals of one round cut once:
        those calls went out before anybody knew."""
        if refused and began_in == self._round:
            self._most = max(1.0, DECREASE * min(self._most, self._running))
            self._round += 1
        elif answered and not self._has_room():
            self._most += 1 / self._most
        self._gone()

    def _gone(self) -> None:
        self._running -= 1
        while self._has_room() and self._turns.give():
            self._running += 1

    def _has_room(self) -> bool:
        return self._running + 1 <= self._most
