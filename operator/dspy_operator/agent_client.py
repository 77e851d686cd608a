"""Asks the agents of gateway pods for their state, over HTTP."""

from __future__ import annotations

from typing import Protocol

import aiohttp
import msgspec

from dspy_contract.routes import STATE_PORT
from dspy_contract.state import GatewayState, Poll, dump_poll, load_state

ANSWER_SECONDS = 3.0


class AgentError(Exception):
    """An agent did not answer, refused, or said something that is no state."""


class Agents(Protocol):
    """Whoever can be asked for the state of a gateway pod."""

    async def ask(self, address: str, token: str, poll: Poll) -> GatewayState:
        """The answer of the agent at an address. Raises AgentError."""

    async def close(self) -> None:
        """Closes the connections."""


class AgentClient:
    """The agents of real pods."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, address: str, token: str, poll: Poll) -> GatewayState:
        """The answer of the agent at an address. Raises AgentError."""
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS, connect=1.0)
            # A poll waits at its agent: as many connections as there are gateway pods are open at once.
            self._session = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))
        host = f"[{address}]" if ":" in address else address
        url, headers = f"http://{host}:{STATE_PORT}/state", {"Authorization": f"Bearer {token}"}
        try:
            async with self._session.post(url, data=dump_poll(poll), headers=headers) as response:
                response.raise_for_status()
                return load_state(await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError) as error:
            raise AgentError(f"{address}: {type(error).__name__}") from error

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()
