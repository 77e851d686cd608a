"""The language models of a program: the default and those of single predictors, by the configuration and never by the
artifact, with keys by files that may be rotated."""

from __future__ import annotations

import asyncio
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from dspy.lm15 import Message, Request, Response, Usage

from dspy_contract.logs import Logger
from dspy_runtime.lm.configured import ConfiguredEndpoint
from dspy_runtime.lm.endpoint import Endpoint, Observer, never
from dspy_runtime.lm.engine import AsyncEngine, Capabilities, Capable, SyncEngine
from dspy_runtime.lm.providers import Wire
from dspy_runtime.lm.served import ServedLM
from dspy_runtime.lm.transport import Transport
from dspy_runtime.settings import DefaultLMSettings, LMSettings

KEY_CHECK_SECONDS = 5.0

log = Logger(__name__)


class Budget(Protocol):
    """What calls may cost."""

    def bars_models(self) -> bool:
        """Whether only models that stand in for others are to be asked."""
        ...


class LanguageModel:
    """One model: DSPy's face of it, and the engine behind, over the model's endpoint and those that stand in for it."""

    def __init__(self, settings: LMSettings, observer: Observer, is_barred: Callable[[], bool] = never) -> None:
        """Raises LMConfigurationError."""
        self.settings = settings
        barred = [is_barred, *([never] * len(settings.fallbacks))]
        self.endpoints = [ConfiguredEndpoint(settings, number, observer, each) for number, each in enumerate(barred)]
        able = functools.reduce(operator.and_, (each.capabilities() for each in self.endpoints))
        self.engine = AsyncEngine(able, [each.endpoint for each in self.endpoints])
        with self.endpoints[0].refused():
            self.lm = self._face(SyncEngine(self.engine), self.engine)

    def check(self) -> None:
        """Says before the first request what every request would be refused for. Raises LMConfigurationError."""
        for endpoint in self.endpoints:
            with endpoint.refused():
                caller = endpoint.connector()(Transport(Wire(), endpoint.settings.timeout_seconds))
                planner = _Planner(caller, endpoint, self.engine.capabilities)
                self._face(planner, None)("Hello")
                for adaptation in planner.adaptations:
                    what = f"A parameter of {endpoint.field}.model does not reach the provider"
                    log.warning(what, model=endpoint.settings.model, adaptation=str(adaptation))
                if callable(key := getattr(caller, "api_key", None)):
                    key()

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


class LanguageModels:
    """The default model and those of single predictors."""

    def __init__(self, settings: DefaultLMSettings, observer: Observer, budget: Budget | None = None) -> None:
        """With a budget, the price of each model must be known."""
        is_barred = budget.bars_models if budget else never
        self.default = LanguageModel(settings, observer, is_barred)
        self.by_predictor = {
            name: LanguageModel(each, observer, is_barred) for name, each in settings.by_predictor.items()
        }
        for model in self.all():
            model.check()
        for endpoint in self.endpoints() if budget else ():
            endpoint.check_price()

    def all(self) -> list[LanguageModel]:
        """Every one of them."""
        return [self.default, *self.by_predictor.values()]

    def endpoints(self) -> list[ConfiguredEndpoint]:
        """Those of all models."""
        return [endpoint for model in self.all() for endpoint in model.endpoints]

    def stand_ins(self) -> list[ConfiguredEndpoint]:
        """Those that stand in for others."""
        return [endpoint for endpoint in self.endpoints() if endpoint.endpoint.model.is_fallback]

    def breakers(self) -> dict[str, Callable[[], float]]:
        """The state of the breakers of each model that has one, by what metrics call it: the worst, where several
        endpoints have one name."""
        found: dict[str, list[Endpoint]] = {}
        for each in self.endpoints():
            if each.endpoint.model.breaker:
                found.setdefault(each.endpoint.model.label, []).append(each.endpoint)
        return {label: functools.partial(_worst, endpoints) for label, endpoints in found.items()}

    def live_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Names the loop of the requests."""
        for model in self.all():
            model.engine.home = loop

    async def follow_keys(self) -> None:
        """Takes keys that have changed, for ever."""
        while True:
            await asyncio.sleep(KEY_CHECK_SECONDS)
            for endpoint in self.endpoints():
                endpoint.follow_key()

    async def aclose(self) -> None:
        """Closes all connections."""
        for model in self.all():
            await model.engine.aclose()


def _worst(endpoints: Sequence[Endpoint]) -> float:
    return max(each.state() for each in endpoints)


class _Planner(Capable):
    """An engine that asks nobody: what of a request a provider's format cannot carry."""

    def __init__(self, caller: Any, endpoint: ConfiguredEndpoint, capabilities: Capabilities) -> None:
        super().__init__(capabilities)
        self.adaptations: tuple[Any, ...] = ()
        self._caller = caller
        self._endpoint = endpoint.endpoint

    def complete(self, request: Request) -> Response:
        """Plans the request, and answers nothing."""
        self.adaptations = self._caller.plan(self._endpoint.wired(request))
        return Response(None, request.model, Message.assistant("-"), "stop", Usage())
