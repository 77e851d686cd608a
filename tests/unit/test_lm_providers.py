"""Names of models: to which door they go, and what is said of one that nobody knows."""

from __future__ import annotations

import pytest

from dspy_runtime.lm.providers import PROVIDERS, SPELLINGS, Api, UnknownProviderError, classic_azure, route


@pytest.mark.parametrize(
    ("model", "provider", "door", "name"),
    [
        ("openai/gpt-4o", "openai", "openai-chat", "gpt-4o"),
        ("openai:gpt-4o", "openai", "openai", "gpt-4o"),  # the engine's own spelling names a door, not a provider
        ("openai-chat:gpt-4o", "openai", "openai-chat", "gpt-4o"),
        ("azure/my-deployment", "azure", "azure-chat", "my-deployment"),
        ("azure_ai/claude-opus-4-7", "azure_anthropic", "azure-anthropic", "claude-opus-4-7"),
        ("vertex_ai/gemini-2.5-pro", "vertex", "vertex", "gemini-2.5-pro"),
        ("vertex_ai/claude-sonnet-4-5", "vertex_anthropic", "vertex-anthropic", "claude-sonnet-4-5"),
        ("bedrock/converse/amazon.nova-pro-v1:0", "bedrock", "bedrock-converse", "amazon.nova-pro-v1:0"),
        ("bedrock/arn:aws:bedrock:x:1:y/z", "bedrock", "bedrock-converse", "arn:aws:bedrock:x:1:y/z"),
        ("hosted_vllm/Qwen/Qwen3-8B", "vllm", "vllm", "Qwen/Qwen3-8B"),
        ("ollama_chat/llama3.2:1b", "ollama", "ollama", "llama3.2:1b"),
        ("together/x", "together_ai", "together-ai", "x"),
        ("groq/openai/gpt-oss-20b", "groq", "groq", "openai/gpt-oss-20b"),
    ],
)
def test_a_name_goes_to_its_door(model: str, provider: str, door: str, name: str) -> None:
    found = route(model)
    assert (found.provider, found.door, found.model) == (provider, door, name)


@pytest.mark.parametrize(
    ("model", "api", "words"),
    [
        ("mistrall/x", "chat", "did you mean mistral/x?"),
        ("gpt-4o", "chat", "such as openai/gpt-4o"),
        ("watsonx/x", "chat", "openai/x with apiBase"),
        ("openai/", "chat", "openai"),
        ("anthropic/x", "responses", "anthropic has no Responses API; those that have one: openai, azure"),
    ],
)
def test_a_name_that_nobody_knows_is_refused_with_the_nearest(model: str, api: Api, words: str) -> None:
    with pytest.raises(UnknownProviderError) as raised:
        route(model, api)
    assert words in str(raised.value)


def test_spellings_lead_to_providers() -> None:
    assert set(SPELLINGS.values()) <= set(PROVIDERS)
    assert not SPELLINGS.keys() & PROVIDERS.keys()


def test_azures_classic_address_is_what_its_portal_shows() -> None:
    shown = "https://shop.openai.azure.com/openai/deployments/gpt/chat/completions?api-version=2024-10-21"
    assert classic_azure(shown) == ("https://shop.openai.azure.com", "gpt", "2024-10-21")
    assert classic_azure("https://shop.openai.azure.com") == ("https://shop.openai.azure.com", "", "")
