"""What a call of a language model costs: by the price that the spec gives, else by the table of genai-prices.

Where neither knows a model, nobody does: that is not 0. A table's price is what the provider's list says; discounts,
batch and priority tiers are the spec's to know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import genai_prices
from dspy.lm15 import Usage
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo, Provider

from dspy_contract.outcomes import NANO_USD
from dspy_runtime.lm.providers import Route
from dspy_runtime.settings import EndpointSettings, PriceSettings

MILLION = 1_000_000

CostOf = Callable[[Usage], int | None]
"""What the answer with that usage cost, in billionths of a US dollar; None where nobody knows."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a call took, by how it is paid for. `cached` and `written` are of the input as well."""

    input: int
    output: int
    cached: int
    written: int


def cost_of(settings: EndpointSettings, where: Route) -> CostOf:
    """How the calls of a model are paid for."""
    if settings.price is not None:
        price = settings.price
        return lambda usage: _by_spec(price, tokens) if (tokens := tokens_of(usage, where)) else None
    listed = _listed(settings, where)
    if listed is None:
        return lambda _: None
    provider, model = listed
    return lambda usage: _by_table(provider, model, tokens) if (tokens := tokens_of(usage, where)) else None


def tokens_of(usage: Usage, where: Route) -> Tokens | None:
    """Providers count differently: with some, what is cached is not among the input, and what a model thinks not among
    the output. None where the provider has not said."""
    if usage.input_tokens is None or usage.output_tokens is None:
        return None
    cached, written = usage.cache_read_tokens or 0, usage.cache_write_tokens or 0
    beside = cached + written if where.facts.cached_beside_input else 0
    thought = (usage.reasoning_tokens or 0) if where.facts.reasoning_beside_output else 0
    return Tokens(usage.input_tokens + beside, usage.output_tokens + thought, cached, written)


def _by_spec(price: PriceSettings, tokens: Tokens) -> int:
    cached = price.input if price.cached_input is None else price.cached_input
    dollars = (tokens.input - tokens.cached) * price.input + tokens.cached * cached + tokens.output * price.output
    return round(dollars * NANO_USD / MILLION)


def _by_table(provider: Provider, model: ModelInfo, tokens: Tokens) -> int:
    used = genai_prices.Usage(
        input_tokens=tokens.input,
        output_tokens=tokens.output,
        cache_read_tokens=tokens.cached,
        cache_write_tokens=tokens.written,
    )
    return round(model.calc_price(used, provider).total_price * NANO_USD)


def _listed(settings: EndpointSettings, where: Route) -> tuple[Provider, ModelInfo] | None:
    """The table's entry. A server at an address of one's own has the prices of the provider that is known to be there,
    and none by its model's name."""
    by_address = settings.api_base is not None
    if not (by_address or where.facts.prices):
        return None
    try:
        return get_snapshot().find_provider_model(
            where.model, None, None if by_address else where.facts.prices, settings.api_base
        )
    except LookupError:
        return None
