"""Asks a pod of a revision, once, what of its version is not in force there: only the pod, which has loaded the
version's pickle, knows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Protocol

import aiohttp

from dspy_contract.description import DROPPED_SETTINGS, PATH, UNDERIVABLE
from dspy_contract.logs import Logger
from dspy_contract.routes import RUNTIME_PROBE_PORT
from dspy_operator.domain.snapshot import Description

ANSWER_SECONDS = 3.0
LARGEST_BYTES = 64 << 10
ASKED_AT_ONCE = 8
AGAIN_SECONDS = 60.0
"""A pod that did not answer is asked again after this long, if a pass still wants to know."""
MOST_NAMES, LONGEST_NAME = 20, 60
"""Of what a pod says: its image may be the user's own."""

log = Logger(__name__)


class DescriptionError(Exception):
    """A pod did not say what it serves, or in no words that we know."""


class Runtimes(Protocol):
    """Whoever can be asked what a runtime pod serves."""

    async def describe(self, address: str, revision: str) -> Description:
        """What the pod at an address says. Raises DescriptionError."""

    async def close(self) -> None:
        """Closes the connections."""


class RuntimeClient:
    """The runtimes of real pods."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def describe(self, address: str, revision: str) -> Description:
        """What the pod at an address says. Raises DescriptionError."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS))
        host = f"[{address}]" if ":" in address else address
        try:
            url = f"http://{host}:{RUNTIME_PROBE_PORT}{PATH}"
            async with self._session.get(url, allow_redirects=False) as response:
                response.raise_for_status()
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > LARGEST_BYTES:
                        raise ValueError(f"{address} describes itself in more than {LARGEST_BYTES} bytes")
                return read_description(revision, bytes(body))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DescriptionError(f"{address}: {type(error).__name__}") from error

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()


class Descriptions:
    """What the newest revisions of programs said of themselves, until it is written down."""

    def __init__(self, runtimes: Runtimes, wake: Callable[[str, str], None]) -> None:
        """`wake` hears the namespace and name of a program whose revision has answered."""
        self._runtimes = runtimes
        self._wake = wake
        self._known: dict[tuple[str, str], Description] = {}
        self._asking: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._places = asyncio.Semaphore(ASKED_AT_ONCE)

    def of(self, namespace: str, program: str, revision: str, address: str) -> Description | None:
        """What a program's revision said of itself; None while it is being asked."""
        key = (namespace, program)
        known = self._known.get(key)
        if known is not None and known.revision == revision:
            return known
        if key not in self._asking:
            self._asking[key] = asyncio.create_task(self._ask(key, revision, address))
        return None

    def forget(self, namespace: str, program: str) -> None:
        """It is written down, or the program is gone."""
        self._known.pop((namespace, program), None)

    async def close(self) -> None:
        """Ends every question."""
        for task in self._asking.values():
            task.cancel()
        await self._runtimes.close()

    async def _ask(self, key: tuple[str, str], revision: str, address: str) -> None:
        try:
            async with self._places:
                self._known[key] = await self._runtimes.describe(address, revision)
            self._wake(*key)
        except DescriptionError as error:
            log.debug("A pod did not describe itself", namespace=key[0], revision=revision, error=str(error))
            await asyncio.sleep(AGAIN_SECONDS)
        finally:
            del self._asking[key]


def read_description(revision: str, body: bytes) -> Description:
    """A runtime's page of itself. Raises ValueError, KeyError and TypeError for what is none."""
    content = json.loads(body)
    return Description(revision, _names(content[DROPPED_SETTINGS]), _names(content[UNDERIVABLE]))


def _names(found: object) -> tuple[str, ...]:
    if not isinstance(found, list):
        raise TypeError(f"{type(found).__name__} is no list of names")
    return tuple("".join(filter(str.isprintable, str(each)[:LONGEST_NAME])) for each in found[:MOST_NAMES])
