"""Hosted embeddings for `dspy.Embedder`, which knows litellm only: `/embeddings` in OpenAI's format, as most have it.

A provider that a language model of the configuration has is called with that one's address and key, any other with the
key that is in the environment.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dspy.clients import embedding
from dspy.clients.errors import error_boundary
from dspy.lm15 import UnsupportedFeatureError

from dspy_runtime.lm.background import awaited, wait
from dspy_runtime.lm.configured import ConfiguredEndpoint
from dspy_runtime.lm.credentials import current
from dspy_runtime.lm.endpoint import Unobserved
from dspy_runtime.lm.models import LanguageModels
from dspy_runtime.lm.providers import route
from dspy_runtime.lm.retries import tried
from dspy_runtime.lm.transport import Outgoing, Transport
from dspy_runtime.settings import LMSettings

OTHERS = frozenset({"anthropic", "gemini", "vertex", "vertex_anthropic", "bedrock", "bedrock_anthropic"})
"""Providers that have embeddings in another format, or none."""

CONNECTION = frozenset({"api_key", "api_base", "base_url", "api_version", "timeout", "headers", "extra_headers"})
"""What an author's own call was made with, and is of no concern here: keys in an artifact are never used."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """What `dspy.Embedder` reads of an answer."""

    data: list[dict[str, Any]]


class Embeddings:
    """Stands where DSPy looks for litellm's embeddings."""

    cache = None

    def __init__(self, models: LanguageModels) -> None:
        known = sorted(models.endpoints(), key=lambda each: each.endpoint.model.is_fallback)
        self._endpoints = {each.route.provider: each for each in reversed(known)}
        self._connected: dict[str, tuple[Transport, Any, Any]] = {}
        """By provider: a transport, who calls over it, and the key that made that one."""

    def embedding(self, *, model: str, input: Sequence[str], caching: bool = False, **parameters: Any) -> Embedded:
        """One batch, for a caller that cannot await."""
        found: Embedded = wait(self._ask(model, input, parameters))
        return found

    async def aembedding(
        self, *, model: str, input: Sequence[str], caching: bool = False, **parameters: Any
    ) -> Embedded:
        """One batch."""
        found: Embedded = await awaited(self._ask(model, input, parameters))
        return found

    async def _ask(self, model: str, texts: Sequence[str], parameters: dict[str, Any]) -> Embedded:
        with error_boundary(model, unexpected=True):
            where = route(model)
            if where.provider in OTHERS:
                raise UnsupportedFeatureError(
                    f"{where.provider} has no embeddings in OpenAI's format: give dspy.Embedder a function",
                    provider=where.provider,
                    feature="embeddings",
                )
            if where.provider not in self._endpoints:
                self._endpoints[where.provider] = ConfiguredEndpoint(LMSettings(model=model), 0, Unobserved())
            endpoint = self._endpoints[where.provider]
            transport, caller = self._caller(where.provider, endpoint)
            more = {name: value for name, value in parameters.items() if name not in CONNECTION}
            body = {"model": where.model, "input": list(texts), **more}
            return await tried(lambda: _send(caller, transport, body), endpoint.settings.max_retries)

    def _caller(self, provider: str, endpoint: ConfiguredEndpoint) -> tuple[Transport, Any]:
        """Who calls a provider: the same as before, with its identity exchanged, until the key changes."""
        key = endpoint.key
        known = self._connected.get(provider)
        if known is None or known[2] != key:
            wire = replace(endpoint.wire, api_version="")  # which names the deployment of the language model
            transport = known[0] if known else Transport(wire, endpoint.settings.timeout_seconds)
            known = self._connected[provider] = (transport, endpoint.connector()(transport), key)
        return known[0], known[1]


async def _send(caller: Any, transport: Transport, body: dict[str, Any]) -> Embedded:
    credential = await current(caller.api_key)
    azure = caller.provider.startswith("azure") and credential.kind == "api_key"
    identity = ("api-key", credential.value) if azure else ("Authorization", f"Bearer {credential.value}")
    url = f"{caller.base_url.rstrip('/')}/embeddings"
    headers = [("Content-Type", "application/json"), identity]
    async with transport.stream(Outgoing("POST", url, headers, json.dumps(body).encode())) as answer:
        content = (await answer.read()).decode("utf-8", "replace")
        if answer.status >= 400:
            raise caller.normalize_error(answer.status, content)
    return Embedded(sorted(json.loads(content)["data"], key=lambda each: each["index"]))


def carry_embeddings(models: LanguageModels) -> None:
    """From now on `dspy.Embedder` of a model's name is carried here."""
    carried = Embeddings(models)
    embedding._get_litellm = lambda: carried
