"""How the engine's bytes go out and come in: aiohttp below DSPy's own formats.

The transport that DSPy brings asks select() whether a kept connection is still open, which fails for descriptors above
1,023: from some 500 requests in flight each call makes a new connection there.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
from dspy.lm15 import TransportError
from yarl import URL

from dspy_runtime.lm import trace_context
from dspy_runtime.lm.providers import Wire

CONNECT_SECONDS = 5.0
KEEP_ALIVE_SECONDS = 60.0
_CREDENTIALS = {"authorization", "x-api-key", "api-key", "x-goog-api-key"}


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request of ours, in the shape of those of DSPy's engine."""

    method: str
    url: str
    headers: list[tuple[str, str]]
    body: bytes


class Transport:
    """The connections to one provider, of the event loop that it is first used on."""

    def __init__(self, wire: Wire, silent_seconds: float) -> None:
        self._wire = wire
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=silent_seconds)
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def stream(self, request: Any) -> AsyncIterator[Any]:
        """Sends a request and yields its response while its body is read. Raises the engine's transport errors."""
        try:
            async with self._opened().request(
                request.method,
                _url(request.url, self._wire),
                headers=_headers(request.headers, self._wire),
                data=request.body,
                allow_redirects=False,
            ) as response:
                yield Response(response)
        except aiohttp.ConnectionTimeoutError as error:
            raise TransportError("the provider's address did not answer in time") from error
        except TimeoutError as error:
            raise TransportError("the provider was silent for too long") from error
        except (aiohttp.ClientConnectorError, aiohttp.InvalidURL) as error:
            raise TransportError(f"the provider cannot be reached: {type(error).__name__}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise TransportError(f"the connection to the provider was lost: {type(error).__name__}") from error

    async def aclose(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            # Who may run is decided at admission; a limit here would only queue what has a place.
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS)
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=self._timeout,
                trust_env=any(name.lower().endswith("_proxy") for name in os.environ),
                skip_auto_headers=["Accept"],
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


class Response:
    """An answer as the engine's formats read it."""

    http_version = "HTTP/1.1"

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self.reason = response.reason or ""
        self.headers = list(response.headers.items())
        self._response = response

    async def read(self) -> bytes:
        """The whole body."""
        return await self._response.read()

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The body in the parts that it comes in."""
        return self._response.content.iter_any()


def _headers(headers: list[tuple[str, str]], wire: Wire) -> list[tuple[str, str]]:
    if wire.anonymous:
        headers = [(name, value) for name, value in headers if name.lower() not in _CREDENTIALS]
    return [*headers, *wire.headers, *trace_context.outgoing()]


def _url(url: str, wire: Wire) -> URL:
    if wire.api_version:  # Azure's classic API has the deployment in the path
        parts = urlsplit(url)
        last = parts.path.rpartition("/v1/")[2]
        path = f"/openai/deployments/{quote(wire.deployment, safe='')}/{last}"
        url = f"{parts.scheme}://{parts.netloc}{path}?api-version={quote(wire.api_version, safe='')}"
    return URL(url, encoded=True)
