"""tqdm in many threads at once: `dspy.Parallel` makes a bar for each request, shown or not."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import tqdm


class Bars(WeakSet[Any]):
    """All bars of the process. One that is not shown takes itself out without tqdm's lock, and another thread may have
    forgotten it: under load requests ended with a KeyError."""

    def remove(self, item: Any) -> None:
        """Takes a bar out, if it is there."""
        self.discard(item)


def share_bars() -> None:
    """To be called before there are threads: the first bar makes what all of them share."""
    tqdm.tqdm(disable=True).close()
    tqdm.tqdm._instances = Bars()
