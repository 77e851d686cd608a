"""Asks the runtimes of pods what only they know, on the port of their probes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Protocol, TypeVar

import aiohttp

from dspy_contract.description import (
    AGE_SECONDS,
    CACHE_PATH,
    DESCRIPTION_PATH,
    DROPPED_SETTINGS,
    FRAMES,
    SECONDS,
    STANDSTILL_PATH,
    UNDERIVABLE,
)
from dspy_contract.routes import RUNTIME_PROBE_PORT
from dspy_operator.domain.snapshot import Description, Standstill
from dspy_operator.pod_client import PodClient, pod_url

LARGEST_BYTES = 64 << 10
MOST_NAMES, LONGEST_NAME = 20, 60
"""Of what a pod says: its image may be the user's own."""

T = TypeVar("T")


class RuntimeUnheardError(Exception):
    """A pod did not say what it was asked, or in no words that we know."""


class Runtimes(Protocol):
    """Whoever can be asked what a runtime pod knows."""

    async def describe(self, address: str, revision: str) -> Description:
        """What of its version is not in force in the pod at an address. Raises RuntimeUnheardError."""

    async def standstill(self, address: str, revision: str) -> Standstill | None:
        """The last time that the pod at an address stood still, if it did. Raises RuntimeUnheardError."""

    async def forget_answers(self, address: str) -> None:
        """Has the pod at an address forget the answers that it keeps. Raises RuntimeUnheardError."""

    async def close(self) -> None:
        """Closes the connections."""


class RuntimeClient(PodClient):
    """The runtimes of real pods, on the port of their probes."""

    def __init__(self, port: int = RUNTIME_PROBE_PORT) -> None:
        super().__init__()
        self._port = port

    async def describe(self, address: str, revision: str) -> Description:
        """What of its version is not in force in the pod at an address. Raises RuntimeUnheardError."""
        return await self._read(address, DESCRIPTION_PATH, lambda body: read_description(revision, body))

    async def standstill(self, address: str, revision: str) -> Standstill | None:
        """The last time that the pod at an address stood still, if it did. Raises RuntimeUnheardError."""
        return await self._read(address, STANDSTILL_PATH, lambda body: read_standstill(revision, body))

    async def forget_answers(self, address: str) -> None:
        """Has the pod at an address forget the answers that it keeps. Raises RuntimeUnheardError."""
        await self._read(address, CACHE_PATH, lambda _: None, method="DELETE")

    async def _read(self, address: str, path: str, read: Callable[[bytes], T], method: str = "GET") -> T:
        try:
            url = pod_url(address, self._port, path)
            async with self.session().request(method, url, allow_redirects=False) as response:
                response.raise_for_status()
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > LARGEST_BYTES:
                        raise ValueError(f"{address} says more than {LARGEST_BYTES} bytes")
                return read(bytes(body))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise RuntimeUnheardError(f"{address}: {type(error).__name__}") from error


def read_description(revision: str, body: bytes) -> Description:
    """A runtime's page of what is not in force. Raises ValueError, KeyError and TypeError for what is none."""
    content = json.loads(body)
    return Description(revision, _names(content[DROPPED_SETTINGS]), _names(content[UNDERIVABLE]))


def read_standstill(revision: str, body: bytes) -> Standstill | None:
    """A runtime's page of its last standstill. Raises ValueError, KeyError and TypeError for what is none."""
    content = json.loads(body)
    if content is None:
        return None
    frames = _names(content[FRAMES])
    place = frames[-1] if frames else ""
    return Standstill(revision, float(content[SECONDS]), float(content[AGE_SECONDS]), place)


def _names(found: object) -> tuple[str, ...]:
    if not isinstance(found, list):
        raise TypeError(f"{type(found).__name__} is no list of names")
    return tuple("".join(filter(str.isprintable, str(each)[:LONGEST_NAME])) for each in found[:MOST_NAMES])
