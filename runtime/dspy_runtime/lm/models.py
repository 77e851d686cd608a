"""The language models of a program: the default and those of single predictors, by the configuration and never by the
artifact, with keys by files that may be rotated."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dspy
from dspy.clients.model_metadata import model_info
from dspy.lm15 import (
    AsyncLMRouter,
    LM15Error,
    Message,
    MissingCredentialError,
    Request,
    Response,
    RouterConfig,
    Usage,
    register_provider,
)

from dspy_contract.logs import Logger
from dspy_runtime.failures import LMConfigurationError, described
from dspy_runtime.lm.bedrock import ConverseCaller
from dspy_runtime.lm.engine import AsyncEngine, Capabilities, Capable, Model, SyncEngine
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
from dspy_runtime.lm.served import ServedLM
from dspy_runtime.lm.transport import Transport
from dspy_runtime.settings import DefaultLMSettings, LMSettings

KEY_CHECK_SECONDS = 5.0
ANONYMOUS = "none"
"""What stands where the engine asks for a key and none is to be sent: the transport takes it out again."""

AWS_DOOR = "bedrock-chat"
"""The engine's door to Bedrock of which Converse takes address, region and identity."""

Observe = Callable[[str, Usage, int | None], None]
"""Told of every answer its model, its usage, and what it cost in billionths of a US dollar, if anybody knows."""

log = Logger(__name__)


def _declare_providers() -> None:
    namespaces = {facts.chat: facts.namespaces for facts in PROVIDERS.values()}
    for definition in DECLARED:
        register_provider(definition, metadata_namespaces=namespaces[definition.id])


_declare_providers()


class LanguageModel:
    """One model: DSPy's face of it, and the engine behind."""

    def __init__(self, settings: LMSettings, observe: Observe) -> None:
        """Raises LMConfigurationError, in DSPy's own words where it is DSPy that refuses."""
        self.settings = settings
        self._field = f"lm.model {settings.model!r}"
        self.key = _key(settings.api_key_file)
        if settings.api_key_file and not self.key:
            raise LMConfigurationError("the API key's file is missing or empty; check lm.credentials.apiKey")
        with self._refused():
            self.route = route(settings.model, settings.api)
            self.wire = _wire(settings, self.route)
            cost = cost_of(settings, self.route)
            model = Model(
                name=self.route.model,
                capabilities=capabilities(self.route, settings.api),
                wire=self.wire,
                silent_seconds=settings.timeout_seconds,
                most_retries=settings.max_retries,
                observe=lambda usage: observe(settings.model, usage, cost(usage)),
            )
            self.engine = AsyncEngine(model, self.connector())
            self.lm = self._face(SyncEngine(self.engine), self.engine)

    def check(self) -> None:
        """Says before the first request what every request would be refused for. Raises LMConfigurationError."""
        with self._refused():
            caller = self.connector()(Transport(Wire(), self.settings.timeout_seconds))
            planner = _Planner(caller, self.engine)
            self._face(planner, None)("Hello")
            for adaptation in planner.adaptations:
                log.warning(f"A parameter of {self._field} does not reach the provider", adaptation=str(adaptation))
            if callable(key := getattr(caller, "api_key", None)):
                key()

    def follow_key(self) -> None:
        """Takes the key file's content, when it is another one."""
        key = _key(self.settings.api_key_file)
        if key and key != self.key:
            self.key = key
            self.engine.reconnect(self.connector())

    def _face(self, engine: Any, async_engine: Any) -> Any:
        parameters = {name: value for name, value in self.settings.parameters.items() if name != "extra_body"}
        return ServedLM(
            self.settings.model,
            model_type=self.settings.api,
            cache=False,
            num_retries=0,
            engine=engine,
            async_engine=async_engine,
            **parameters,
        )

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
    def _refused(self) -> Iterator[None]:
        try:
            yield
        except UnknownProviderError as error:
            raise LMConfigurationError(f"lm.model: {error}") from error
        except MissingCredentialError as error:
            variables = " or ".join(getattr(error, "env_keys", ()))
            raise LMConfigurationError(
                f"{self._field} has no credentials: set lm.credentials.apiKey"
                + (f", or {variables} by lm.credentials.envFrom" if variables else "")
            ) from error
        except (LM15Error, dspy.DSPyError, ValueError, TypeError) as error:
            raise LMConfigurationError(f"{self._field} or its parameters: {described(error, telling=True)}") from error


class LanguageModels:
    """The default model and those of single predictors."""

    def __init__(self, settings: DefaultLMSettings, observe: Observe) -> None:
        self.default = LanguageModel(settings, observe)
        self.by_predictor = {name: LanguageModel(each, observe) for name, each in settings.by_predictor.items()}
        for model in self.all():
            model.check()

    def all(self) -> list[LanguageModel]:
        """Every one of them."""
        return [self.default, *self.by_predictor.values()]

    def live_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Names the loop of the requests."""
        for model in self.all():
            model.engine.home = loop

    async def follow_keys(self) -> None:
        """Takes keys that have changed, for ever."""
        while True:
            await asyncio.sleep(KEY_CHECK_SECONDS)
            for model in self.all():
                model.follow_key()

    async def aclose(self) -> None:
        """Closes all connections."""
        for model in self.all():
            await model.engine.aclose()


class _Planner(Capable):
    """An engine that asks nobody: what of a request a provider's format cannot carry."""

    def __init__(self, caller: Any, engine: AsyncEngine) -> None:
        super().__init__(engine.capabilities)
        self.adaptations: tuple[Any, ...] = ()
        self._caller = caller
        self._engine = engine

    def complete(self, request: Request) -> Response:
        """Plans the request, and answers nothing."""
        self.adaptations = self._caller.plan(self._engine.wired(request))
        return Response(None, request.model, Message.assistant("-"), "stop", Usage())


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


def _router_config(settings: LMSettings, where: Route, door: str, key: str | None) -> dict[str, Any]:
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


def _wire(settings: LMSettings, where: Route) -> Wire:
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
        extra=dict(settings.parameters.get("extra_body", {})),
    )


def _is_anonymous(settings: LMSettings, where: Route) -> bool:
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
