"""How many calls there may be beside those that somebody asked for: a share of them, and what was saved."""

from __future__ import annotations

MOST_SAVED = 10.0


class Budget:
    """Calls beside `percent` of those that were asked for. `saved` are there at the start."""

    def __init__(self, percent: float, saved: float = 0.0) -> None:
        self._share = percent / 100
        self._saved = saved

    def earn(self) -> None:
        """A call is made that somebody asked for."""
        self._saved = min(self._saved + self._share, MOST_SAVED)

    def spend(self) -> bool:
        """True when there may be one more."""
        if self._saved < 1:
            return False
        self._saved -= 1
        return True
