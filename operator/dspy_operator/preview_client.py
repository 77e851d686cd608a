"""Sends requests to the preview of a candidate, through a gateway pod."""

from __future__ import annotations

from typing import Protocol

import aiohttp

from dspy_contract.outcomes import OUTCOME_HEADER, REVISION_HEADER
from dspy_operator.domain.smoke import LARGEST_ANSWER_BYTES, PreviewAnswer
from dspy_operator.pod_client import CONNECT_SECONDS, PodClient, pod_url


class PreviewUnheardError(Exception):
    """Nobody answered: no connection, or one that broke."""


class Previews(Protocol):
    """Whoever can send a request to a preview."""

    async def predict(self, address: str, port: int, body: bytes, timeout_seconds: float) -> PreviewAnswer:
        """The answer that comes through the gateway pod at an address. Raises PreviewUnheardError, and TimeoutError
        when there is none in time."""

    async def close(self) -> None:
        """Closes the connections."""


class PreviewClient(PodClient):
    """Previews behind real gateways."""

    async def predict(self, address: str, port: int, body: bytes, timeout_seconds: float) -> PreviewAnswer:
        """The answer that comes through the gateway pod at an address. Raises PreviewUnheardError, and TimeoutError
        when there is none in time."""
        timeout = aiohttp.ClientTimeout(total=timeout_seconds, connect=CONNECT_SECONDS)
        # What was answered before says nothing of how it is answered now.
        headers = {"Content-Type": "application/json", "Cache-Control": "no-cache"}
        url = pod_url(address, port, "/predict")
        try:
            async with self.session().post(
                url, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                found = await response.content.read(LARGEST_ANSWER_BYTES + 1)
                while len(found) <= LARGEST_ANSWER_BYTES and (more := await response.content.readany()):
                    found += more
                told = response.headers
                return PreviewAnswer(
                    response.status, told.get(OUTCOME_HEADER, ""), told.get(REVISION_HEADER, ""), found
                )
        except TimeoutError as error:
            if isinstance(error, aiohttp.ConnectionTimeoutError):
                raise PreviewUnheardError(f"{address}: {type(error).__name__}") from error
            raise
        except (aiohttp.ClientError, OSError) as error:
            raise PreviewUnheardError(f"{address}: {type(error).__name__}") from error
