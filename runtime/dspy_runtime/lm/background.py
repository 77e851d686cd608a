"""An event loop on a thread of its own, which carries the calls that no loop of requests can make."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from functools import cache
from typing import Any

import uvloop

from dspy_runtime.lm.scope import SCOPE


class BackgroundLoop:
    """The loop. Coroutines run on it with the caller's context variables."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        threading.Thread(target=self.loop.run_forever, name="lm-calls", daemon=True).start()

    def submit(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Runs a coroutine there; cancelling the future cancels it."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)


_MAKING = threading.Lock()


def background() -> BackgroundLoop:
    """The one of this process. Threads that ask for it at once, as the first requests do, get the same: what one loop
    has begun no other can go on with."""
    with _MAKING:
        return _made()


@cache
def _made() -> BackgroundLoop:
    return BackgroundLoop()


async def awaited(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that runs there, for a caller on another loop; cancelled with its request."""
    scope = SCOPE.get()
    call = background().submit(work)
    return await (scope.awaited(call) if scope else asyncio.wrap_future(call))


def wait(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that runs there, for a caller that cannot await; cancelled with its request."""
    scope = SCOPE.get()
    call = background().submit(work)
    return scope.wait_for(call) if scope else call.result()
