"""Asks the agents of gateway pods for their state, over HTTP."""

from __future__ import annotations

from typing import Protocol

import aiohttp
import msgspec

from dspy_contract.routes import STATE_PORT
from dspy_contract.state import GatewayState, Poll, dump_poll, load_state
from dspy_operator.pod_client import PodClient, pod_url


class AgentError(Exception):
    """An agent did not answer, refused, or said something that is no state."""


class Agents(Protocol):
    """Whoever can be asked for the state of a gateway pod."""

    async def ask(self, address: str, token: str, poll: Poll) -> GatewayState:
        """The answer of the agent at an address. Raises AgentError."""

    async def close(self) -> None:
        """Closes the connections."""


class AgentClient(PodClient):
    """The agents of real pods."""

    async def ask(self, address: str, token: str, poll: Poll) -> GatewayState:
        """The answer of the agent at an address. Raises AgentError."""
        url, headers = pod_url(address, STATE_PORT, "/state"), {"Authorization": f"Bearer {token}"}
        try:
            async with self.session().post(url, data=dump_poll(poll), headers=headers) as response:
                response.raise_for_status()
                return load_state(await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError) as error:
            raise AgentError(f"{address}: {type(error).__name__}") from error
