"""Asks pods what only they know: once, what of a version is not in force there, which its pickle tells; and now and
then, whether the program has held up all requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import aiohttp

from dspy_contract.description import DROPPED_SETTINGS, PATH, STANDSTILL_PATH, UNDERIVABLE
from dspy_contract.logs import Logger
from dspy_contract.routes import RUNTIME_PROBE_PORT
from dspy_operator.domain.snapshot import Description, Standstill
from dspy_operator.pod_client import PodClient, pod_url

LARGEST_BYTES = 64 << 10
ASKED_AT_ONCE = 8
AGAIN_SECONDS = 60.0
"""A pod that did not answer is asked again after this long, if a pass still wants to know."""
STANDSTILL_SECONDS = 30.0
"""How often a program's revisions are asked whether they stood still, if passes come as often."""
TOLD_AGAIN_SECONDS = 600.0
"""A revision that stands still all the time is told of this often."""
MOST_NAMES, LONGEST_NAME = 20, 60
"""Of what a pod says: its image may be the user's own."""

log = Logger(__name__)
T = TypeVar("T")


class DescriptionError(Exception):
    """A pod did not say what it serves, or in no words that we know."""


class Runtimes(Protocol):
    """Whoever can be asked what a runtime pod serves."""

    async def describe(self, address: str, revision: str) -> Description:
        """What the pod at an address says. Raises DescriptionError."""

    async def standstill(self, address: str, revision: str) -> Standstill | None:
        """The last time that the pod at an address stood still, if it did. Raises DescriptionError."""

    async def close(self) -> None:
        """Closes the connections."""


class RuntimeClient(PodClient):
    """The runtimes of real pods."""

    async def describe(self, address: str, revision: str) -> Description:
        """What the pod at an address says. Raises DescriptionError."""
        return await self._read(address, PATH, lambda body: read_description(revision, body))

    async def standstill(self, address: str, revision: str) -> Standstill | None:
        """The last time that the pod at an address stood still, if it did. Raises DescriptionError."""
        return await self._read(address, STANDSTILL_PATH, lambda body: read_standstill(revision, body))

    async def _read(self, address: str, path: str, read: Callable[[bytes], T]) -> T:
        try:
            url = pod_url(address, RUNTIME_PROBE_PORT, path)
            async with self.session().get(url, allow_redirects=False) as response:
                response.raise_for_status()
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > LARGEST_BYTES:
                        raise ValueError(f"{address} says more than {LARGEST_BYTES} bytes")
                return read(bytes(body))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DescriptionError(f"{address}: {type(error).__name__}") from error


class Descriptions:
    """What the newest revisions of programs said of themselves, until it is written down."""

    def __init__(self, runtimes: Runtimes, wake: Callable[[str, str], None]) -> None:
        """`wake` hears the namespace and name of a program whose revision has answered."""
        self._runtimes = runtimes
        self._wake = wake
        self._known: dict[tuple[str, str], Description] = {}
        self._asking: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._places = asyncio.Semaphore(ASKED_AT_ONCE)
        self.standstills = Standstills(runtimes, wake)

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
        """It is written down."""
        self._known.pop((namespace, program), None)

    def leave(self, namespace: str, program: str) -> None:
        """The program is gone."""
        self.forget(namespace, program)
        self.standstills.forget(namespace, program)

    async def close(self) -> None:
        """Ends every question."""
        for task in self._asking.values():
            task.cancel()
        self.standstills.close()
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


class Standstills:
    """Asks one pod of each revision that serves; what it hears is told once."""

    def __init__(self, runtimes: Runtimes, wake: Callable[[str, str], None]) -> None:
        """`wake` hears the namespace and name of a program of which there is something to tell."""
        self._runtimes = runtimes
        self._wake = wake
        self._asked: dict[tuple[str, str], _Asked] = {}
        self._places = asyncio.Semaphore(ASKED_AT_ONCE)

    def heard(self, namespace: str, program: str, addresses: Mapping[str, str]) -> tuple[Standstill, ...]:
        """What was heard since it was asked for last. `addresses` are those of a Ready pod of each revision.

        The first time nobody is asked: after a start of the operator every program has a pass.
        """
        now = asyncio.get_running_loop().time()
        asked = self._asked.setdefault((namespace, program), _Asked(now))
        if asked.task is None and now - asked.at >= STANDSTILL_SECONDS:
            asked.task = asyncio.create_task(self._ask(namespace, program, asked, addresses, now - asked.at))
            asked.at = now
        heard, asked.heard = asked.heard, ()
        return heard

    def forget(self, namespace: str, program: str) -> None:
        """The program is gone."""
        asked = self._asked.pop((namespace, program), None)
        if asked is not None and asked.task is not None:
            asked.task.cancel()

    def close(self) -> None:
        """Ends every question."""
        for key in list(self._asked):
            self.forget(*key)

    async def _ask(
        self, namespace: str, program: str, asked: _Asked, addresses: Mapping[str, str], since: float
    ) -> None:
        try:
            for revision, address in addresses.items():
                async with self._places:
                    said = await self._said(address, revision)
                told = asked.told.get(revision)
                if said is None or said.age_seconds > since or (told and asked.at - told < TOLD_AGAIN_SECONDS):
                    continue
                asked.told[revision] = asked.at
                asked.heard = (*asked.heard, said)
            if asked.heard:
                self._wake(namespace, program)
        finally:
            asked.task = None

    async def _said(self, address: str, revision: str) -> Standstill | None:
        try:
            return await self._runtimes.standstill(address, revision)
        except DescriptionError as error:
            log.debug("A pod did not say whether it stood still", revision=revision, error=str(error))
            return None


@dataclass(slots=True)
class _Asked:
    """When the pods of a program were asked last, what was heard and not told yet, and when each revision was told."""

    at: float
    heard: tuple[Standstill, ...] = ()
    told: dict[str, float] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None


def read_description(revision: str, body: bytes) -> Description:
    """A runtime's page of itself. Raises ValueError, KeyError and TypeError for what is none."""
    content = json.loads(body)
    return Description(revision, _names(content[DROPPED_SETTINGS]), _names(content[UNDERIVABLE]))


def read_standstill(revision: str, body: bytes) -> Standstill | None:
    """A runtime's page of its last standstill. Raises ValueError, KeyError and TypeError for what is none."""
    content = json.loads(body)
    if content is None:
        return None
    frames = _names(content["frames"])
    return Standstill(
        revision, float(content["seconds"]), float(content["ageSeconds"]), frames[-1] if frames else "unknown"
    )


def _names(found: object) -> tuple[str, ...]:
    if not isinstance(found, list):
        raise TypeError(f"{type(found).__name__} is no list of names")
    return tuple("".join(filter(str.isprintable, str(each)[:LONGEST_NAME])) for each in found[:MOST_NAMES])
