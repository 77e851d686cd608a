"""How many calls there may be beside those that somebody asked for: a share of them, and a few at the start."""

from __future__ import annotations

RESERVE = 10.0
"""What has been saved at the start, and at most: an endpoint that is rarely called may still be tried again."""


class Allowance:
    """Calls beside `percent` of those that were asked for."""

    def __init__(self, percent: float) -> None:
        self._share = percent / 100
        self._saved = RESERVE

    def earn(self) -> None:
        """A call is made that somebody asked for."""
        self._saved = min(self._saved + self._share, RESERVE)

    def spend(self) -> bool:
        """True when there may be one more."""
        if self._saved < 1:
            return False
        self._saved -= 1
        return True
