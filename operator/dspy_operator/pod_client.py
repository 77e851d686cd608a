"""Connections to pods, whatever is asked there."""

from __future__ import annotations

import aiohttp

ANSWER_SECONDS, CONNECT_SECONDS = 3.0, 1.0


class PodClient:
    """One session, opened when it is first used."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    def session(self) -> aiohttp.ClientSession:
        """The session. As many connections as there are pods may be open at once: a poll waits at its agent."""
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS, connect=CONNECT_SECONDS)
            self._session = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))
        return self._session

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()


def pod_url(address: str, port: int, path: str) -> str:
    """The URL of a page of the pod at an address, which may be of either family."""
    host = f"[{address}]" if ":" in address else address
    return f"http://{host}:{port}{path}"
