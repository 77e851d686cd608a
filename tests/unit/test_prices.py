"""What a call costs: as the spec says, else by the list; what nobody knows is not 0."""

from __future__ import annotations

import pytest
from dspy.lm15 import Usage

from dspy_runtime.lm.prices import Tokens, cost_of, tokens_of
from dspy_runtime.lm.providers import PROVIDERS, route
from dspy_runtime.settings import LMSettings, PriceSettings

USAGE = Usage(input_tokens=1_000_000, output_tokens=200_000)
SPEC = PriceSettings(input=2.0, output=10.0)


def cost(model: str, usage: Usage = USAGE, price: PriceSettings | None = None, base: str | None = None) -> int | None:
    return cost_of(LMSettings(model=model, api_base=base, price=price), route(model))(usage)


def test_the_spec_says_it_of_any_model() -> None:
    assert cost("vllm/own", price=SPEC) == 4_000_000_000
    assert cost("openai/gpt-4o-mini", price=SPEC) == 4_000_000_000
    half_cached = Usage(input_tokens=1_000_000, output_tokens=0, cache_read_tokens=500_000)
    assert cost("openai/own", half_cached, SPEC) == 2_000_000_000
    assert cost("openai/own", half_cached, SPEC.model_copy(update={"cached_input": 0.2})) == 1_100_000_000


def test_else_the_list_does() -> None:
    """OpenAI's price of gpt-4o-mini since 2024: 15 cents and 60 cents a million."""
    assert cost("openai/gpt-4o-mini") == 270_000_000
    assert cost("openai/gpt-4o-mini", Usage(input_tokens=1, output_tokens=0)) == 150
    assert cost("bedrock/us.anthropic.claude-opus-4-7-v1:0")
    assert cost("openai/gpt-4o-mini", base="https://api.openai.com/v1") == 270_000_000


@pytest.mark.parametrize(
    ("model", "base"),
    [
        ("openai/standin", None),
        ("vllm/gpt-4o-mini", None),
        ("openai/gpt-4o-mini", "http://10.0.0.1/v1"),
        ("databricks/gpt-4o-mini", "https://example.invalid/serving-endpoints"),
    ],
)
def test_what_nobody_knows_is_not_0(model: str, base: str | None) -> None:
    """Least of all what a server of one's own takes for a model of that name."""
    assert cost(model, base=base) is None


@pytest.mark.parametrize("price", [None, SPEC])
def test_what_the_provider_does_not_tell_nobody_knows(price: PriceSettings | None) -> None:
    for usage in (Usage(), Usage(input_tokens=5), Usage(output_tokens=5)):
        assert cost("openai/gpt-4o-mini", usage, price) is None
    assert cost("openai/gpt-4o-mini", Usage(input_tokens=0, output_tokens=0), price) == 0


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("openai/m", Tokens(100, 50, 30, 10)),
        ("anthropic/m", Tokens(140, 50, 30, 10)),
        ("bedrock/m", Tokens(140, 50, 30, 10)),
        ("gemini/m", Tokens(100, 70, 30, 10)),
        ("xai/m", Tokens(100, 70, 30, 10)),
    ],
)
def test_every_provider_counts_in_its_own_way(model: str, tokens: Tokens) -> None:
    """Spec of DSPy's engine, Usage: counters are the provider's own words."""
    usage = Usage(input_tokens=100, output_tokens=50, cache_read_tokens=30, cache_write_tokens=10, reasoning_tokens=20)
    assert tokens_of(usage, route(model)) == tokens


def test_the_list_has_every_provider_that_is_said_to_be_in_it() -> None:
    from genai_prices.data_snapshot import get_snapshot

    assert {each.prices for each in PROVIDERS.values() if each.prices} <= {each.id for each in get_snapshot().providers}
