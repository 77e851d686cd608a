"""Envoy's admin interface over its unix socket: statistics, and the orders that a drain needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

TIMEOUT = aiohttp.ClientTimeout(total=5)


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests of programs, over all listeners and since Envoy began."""

    active: int
    begun: int


class Admin:
    """A client of one Envoy's admin socket. Raises aiohttp.ClientError or TimeoutError while Envoy is not there."""

    def __init__(self, socket: Path) -> None:
        self._session = aiohttp.ClientSession(
            "http://envoy", connector=aiohttp.UnixConnector(path=str(socket)), timeout=TIMEOUT
        )

    async def close(self) -> None:
        """Closes the connection."""
        await self._session.close()

    async def json(self, path: str) -> Any:
        """The JSON at a path, which is sent as it is written."""
        async with self._session.get(path_url(path)) as response:
            response.raise_for_status()
            return await response.json(content_type=None)

    async def post(self, path: str) -> None:
        """Gives an order."""
        async with self._session.post(path_url(path)) as response:
            response.raise_for_status()

    async def requests(self) -> Requests:
        """How many requests are in flight, and how many have begun."""
        pattern = "%5Ehttp%5C.gateway%5C.downstream_rq_%28active%7Ctotal%29%24"
        content = await self.json(f"/stats?format=json&filter={pattern}")
        found = {statistic["name"].rpartition("_")[2]: int(statistic["value"]) for statistic in content["stats"]}
        return Requests(active=found.get("active", 0), begun=found.get("total", 0))


def path_url(path: str) -> URL:
    """A URL that keeps the path's own escapes."""
    return URL(f"http://envoy{path}", encoded=True)
