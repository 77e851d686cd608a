"""An endpoint as the configuration names it: where its calls go, with which key and what else of the settings."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dspy
from dspy.clients.model_metadata import model_info
from dspy.lm15 import AsyncLMRouter, LM15Error, MissingCredentialError, RouterConfig, Usage, register_provider

from dspy_runtime.failures import LMConfigurationError, described
from dspy_runtime.lm.bedrock import ConverseCaller
from dspy_runtime.lm.endpoint import Endpoint, Model, Observer, never
from dspy_runtime.lm.engine import Capabilities
from dspy_runtime.lm.prices import cost_of
from dspy_runtime.lm.providers import (
    CONVERSE,
    DECLARED,
    PROVIDERS,
    Route,
    UnknownProviderError,
    Wire,
    classic_azure,
    route,
)
from dspy_runtime.lm.transport import Transport
from dspy_runtime.settings import BreakerSettings, EndpointSettings, LMSettings

ANONYMOUS = "none"
"""What stands where the engine asks for a key and none is to be sent: the transport takes it out again."""

AWS_DOOR = "bedrock-chat"
"""The engine's door to Bedrock of which Converse takes address, region and identity."""

LONGEST_WAIT_SECONDS = 1.0
"""Of a call for its turn or its next try where another endpoint stands in."""


def _declare_providers() -> None:
    namespaces = {facts.chat: facts.namespaces for facts in PROVIDERS.values()}
    for definition in DECLARED:
        register_provider(definition, metadata_namespaces=namespaces[definition.id])


_declare_providers()


class ConfiguredEndpoint:
    """An endpoint of a language model, and the key by which it is called."""

    def __init__(self, lm: LMSettings, number: int, observer: Observer, is_barred: Callable[[], bool] = never) -> None:
        """Number 0 is the model itself, others are its fallbacks. `is_barred` says whether
        it is not to be asked now. Raises LMConfigurationError, in DSPy's own words where it is DSPy that refuses."""
        self.settings: EndpointSettings = lm.fallbacks[number - 1] if number else lm
        self.field = f"lm.fallbacks[{number - 1}]" if number else "lm"
        self.key = _key(self.settings.api_key_file)
        if self.settings.api_key_file and not self.key:
            raise LMConfigurationError(f"the API key's file is missing or empty; check {self.field}.credentials.apiKey")
        with self.refused():
            self.route = route(self.settings.model, self.settings.api)
            self.wire = _wire(self.settings, self.route, lm.parameters.get("extra_body", {}) if not number else {})
            self.endpoint = Endpoint(self._model(lm, number, is_barred), self.connector(), observer)

    def _model(self, lm: LMSettings, number: int, is_barred: Callable[[], bool]) -> Model:
        before = [lm.model, *(each.model for each in lm.fallbacks)][:number]
        given = self.settings
        return Model(
            label=f"{given.model} ({number})" if given.model in before else given.model,
            name=self.route.model,
            is_fallback=number > 0,
            wire=self.wire,
            silent_seconds=given.timeout_seconds,
            most_retries=given.max_retries,
            longest_wait=LONGEST_WAIT_SECONDS if number < len(lm.fallbacks) else math.inf,
            has_stand_in=number < len(lm.fallbacks),
            cost=cost_of(given, self.route),
            breaker=lm.circuit_breaker or (BreakerSettings() if lm.fallbacks else None),
            hedge=lm.hedge,
            is_barred=is_barred,
        )

    def check_price(self) -> None:
        """Raises LMConfigurationError where nobody knows what an answer costs."""
        if self.endpoint.model.cost(Usage(input_tokens=1, output_tokens=1)) is None:
            raise LMConfigurationError(
                f"nobody knows what {self.settings.model!r} costs, which a budget needs; set {self.field}.price"
            )

    def capabilities(self) -> Capabilities:
        """What DSPy's adapters may ask of it."""
        return capabilities(self.route, self.settings.api)

    def follow_key(self) -> None:
        """Takes the key file's content, when it is another one."""
        key = _key(self.settings.api_key_file)
        if key and key != self.key:
            self.key = key
            self.endpoint.reconnect(self.connector())

    def connector(self) -> Callable[[Transport], Any]:
        """What makes a caller of the provider, with the key as it is now, over a transport."""
        where = self.route
        door = AWS_DOOR if where.door == CONVERSE else where.door
        config = _router_config(self.settings, where, door, self.key)

        def connect(transport: Transport) -> Any:
            caller = AsyncLMRouter(RouterConfig(**config, transport=transport)).lm(f"{door}:{where.model}")
            return ConverseCaller(caller, transport) if where.door == CONVERSE else caller

        return connect

    @contextmanager
    def refused(self) -> Iterator[None]:
        """What DSPy refuses in it is an error of this endpoint's settings."""
        named = f"{self.field}.model {self.settings.model!r}"
        try:
            yield
        except UnknownProviderError as error:
            raise LMConfigurationError(f"{self.field}.model: {error}") from error
        except MissingCredentialError as error:
            variables = " or ".join(getattr(error, "env_keys", ()))
            raise LMConfigurationError(
                f"{named} has no credentials: set {self.field}.credentials.apiKey"
                + (f", or {variables} by {self.field}.credentials.envFrom" if variables else "")
            ) from error
        except (LM15Error, dspy.DSPyError, ValueError, TypeError) as error:
            raise LMConfigurationError(f"{named} or its parameters: {described(error, telling=True)}") from error


def capabilities(where: Route, api: str) -> Capabilities:
    """What plain `dspy.LM` of that model says of it."""
    if where.door == CONVERSE:
        facts = model_info(where.provider, where.model, namespaces=where.facts.namespaces)
        tools = facts.get("supports_function_calling") is True
        schema = facts.get("supports_native_structured_output") is True
        params = {"temperature", "max_tokens", "top_p", "top_k", "stop", "stream"}
        params |= {"tools", "tool_choice"} if tools else set()
        params |= {"response_format"} if schema else set()
        return Capabilities(function_calling=tools, response_schema=schema, params=frozenset(params))
    lm = dspy.LM(f"{where.door}:{where.model}", model_type=api, engine="lm15")
    return Capabilities(
        lm.supports_function_calling, lm.supports_reasoning, lm.supports_response_schema, frozenset(lm.supported_params)
    )


def _router_config(settings: EndpointSettings, where: Route, door: str, key: str | None) -> dict[str, Any]:
    base, _, _ = classic_azure(settings.api_base or "")
    given = {
        name: value
        for name in where.facts.settings
        if (value := getattr(settings, name)) and not (name == "resource" and base)
    }
    key = key or (ANONYMOUS if _is_anonymous(settings, where) else None)
    return {
        "env": os.environ,
        "api_keys": {door: key} if key else None,
        "base_urls": {door: base} if base else None,
        "settings": {door: given} if given else None,
        "providers": DECLARED,
    }


def _wire(settings: EndpointSettings, where: Route, extra: Mapping[str, Any]) -> Wire:
    _, deployment, version = classic_azure(settings.api_base or "")
    headers = {
        **settings.headers,
        **({"OpenAI-Organization": settings.organization} if settings.organization else {}),
        **({"OpenAI-Project": settings.project} if settings.project and where.provider == "openai" else {}),
    }
    return Wire(
        headers=tuple(headers.items()),
        anonymous=_is_anonymous(settings, where),
        deployment=deployment or where.model,
        api_version=version,
        extra=dict(extra),
    )


def _is_anonymous(settings: EndpointSettings, where: Route) -> bool:
    """True for a server of one's own that asks for no key: nothing is sent where nothing was given."""
    if settings.api_key_file is not None or where.door == CONVERSE:
        return False
    found = AsyncLMRouter(RouterConfig(providers=DECLARED)).resolve(f"{where.door}:{where.model}")
    in_environment = bool(found.env_key and os.environ.get(found.env_key))
    by_identity = found.credential_policy.endswith("-chain")
    return where.facts.keyless or (bool(settings.api_base) and not in_environment and not by_identity)


def _key(path: Path | None) -> str | None:
    try:
        return path.read_text().strip() if path else None
    except (OSError, ValueError):
        return None
