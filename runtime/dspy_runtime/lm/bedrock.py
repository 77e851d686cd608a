"""Calls of Bedrock's Converse API, signed by DSPy's own signer with whatever identity its chain finds."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from dspy._vendor.lm15.cloud import sigv4
from dspy._vendor.lm15.credentials import AwsCredentials
from dspy.lm15 import Request, Response

from dspy_runtime.lm import converse
from dspy_runtime.lm.credentials import current
from dspy_runtime.lm.transport import Outgoing, Transport

_OPENAI_PATH = "/openai/v1"


class ConverseCaller:
    """One try of a call. Address, region and identity are those of the engine's own door to Bedrock."""

    def __init__(self, door: Any, transport: Transport) -> None:
        self._root = door.base_url.removesuffix(_OPENAI_PATH)
        self._region = door.settings["region"]
        self.api_key = door.api_key
        self._transport = transport

    def plan(self, request: Request) -> tuple[Any, ...]:
        """Raises what a request would be refused for."""
        converse.body(request)
        return ()

    async def complete(self, request: Request) -> Response:
        """The whole answer."""
        async with self._transport.stream(await self._signed(request, "converse")) as answer:
            content = await answer.read()
            if answer.status >= 400:
                raise _error(answer, content)
            return converse.response(request, _object(content))

    async def stream(self, request: Request) -> AsyncGenerator[Any]:
        """The answer's events as they come."""
        events, frames = converse.Events(request), converse.Frames()
        async with self._transport.stream(await self._signed(request, "converse-stream")) as answer:
            if answer.status >= 400:
                raise _error(answer, await answer.read())
            yield events.start()
            async for data in answer:
                for kind, content in frames.feed(data):
                    for event in events.read(kind, content):
                        yield event
            yield events.end()

    async def _signed(self, request: Request, operation: str) -> Outgoing:
        url, signed_url = addresses(self._root, request.model, operation)
        body = json.dumps(converse.body(request)).encode()
        headers = {"Content-Type": "application/json"}
        credential = await current(self.api_key)
        if isinstance(credential, AwsCredentials):
            headers = sigv4.sign(
                method="POST",
                url=signed_url,
                headers=headers,
                payload=body,
                credentials=credential,
                region=self._region,
                service="bedrock",
                now=datetime.now(UTC),
            ).headers
        else:
            headers["Authorization"] = f"Bearer {credential.value}"
        return Outgoing("POST", url, list(headers.items()), body)


def addresses(root: str, model: str, operation: str) -> tuple[str, str]:
    """The address of a call, and the one that is given to the signer for it: what stands in a path is encoded once more
    in what is signed of it, and the signer decodes before it encodes."""
    name = quote(model, safe=":")
    return f"{root}/model/{name}/{operation}", f"{root}/model/{quote(name, safe=':')}/{operation}"


def _object(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _error(answer: Any, content: bytes) -> Any:
    headers = {name.lower(): value for name, value in answer.headers}
    name = headers.get("x-amzn-errortype", "").partition(":")[0]
    hint = headers.get("retry-after", "")
    message = _object(content).get("message") or ""
    return converse.error(name, str(message), answer.status, float(hint) if hint.isdigit() else None)
