"""Every provider that a model's name may begin with, and the door of DSPy's own engine behind it: data and no I/O.

`provider/model` is how DSPy's users write it, and so do we; litellm's and the engine's own spellings are mapped. A
provider that nothing here names is reached as `openai/<model>` with `apiBase`, when it speaks OpenAI's format.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from dspy.lm15 import AccessPolicy, EndpointSupport, OpenAIChatCompat, ProviderDefinition

Api = Literal["chat", "responses"]


class UnknownProviderError(ValueError):
    """No provider has this name, or none that speaks the API that was asked for."""


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider: the engine's names of its doors, and what else its servers are known by.

    `chat` is the door of its main API, `responses` that of OpenAI's Responses API where it has one. `namespaces` are
    the tables of model facts that may describe its models. `keyless` servers are one's own and ask for no key.
    """

    chat: str
    responses: str = ""
    namespaces: tuple[str, ...] = ()
    keyless: bool = False
    settings: tuple[str, ...] = ()
    """Fields of `spec.lm` that its addresses are made of."""
    prices: str = ""
    """Its name in the table of prices; empty for servers of one's own and those that the table does not have."""
    cached_beside_input: bool = False
    """Whether it counts what is cached apart from the input."""
    reasoning_beside_output: bool = False
    """Whether it counts what a model thinks apart from the output."""


CONVERSE = "bedrock-converse"
"""Our own door: Bedrock's Converse API, which every model of Bedrock speaks."""


def _declared(
    name: str, key: str, base_url: str, max_tokens: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
) -> ProviderDefinition:
    """A provider with OpenAI's format that DSPy's engine does not list."""
    policy = AccessPolicy(
        provider=name,
        supports=EndpointSupport(complete=True, stream=True),
        auth_modes=("bearer",),
        env_keys=(key,) if key else (),
        base_url=base_url,
    )
    compat = OpenAIChatCompat(
        instruction_role="system",
        max_tokens_field=max_tokens,
        stream_usage="include",
        thinking_format="reasoning_effort",
        tool_result_name="omit",
        strict_tools="omit",
        cache_control="none",
        tool_result_media="reject",
    )
    return ProviderDefinition.chat(policy, compat=compat, placeholder_key=None if key else "none")


DECLARED = (
    _declared("mistral", "MISTRAL_API_KEY", "https://api.mistral.ai/v1"),
    _declared("together-ai", "TOGETHER_API_KEY", "https://api.together.xyz/v1"),
    _declared("fireworks-ai", "FIREWORKS_API_KEY", "https://api.fireworks.ai/inference/v1"),
    _declared("perplexity", "PERPLEXITY_API_KEY", "https://api.perplexity.ai"),
    _declared("nvidia-nim", "NVIDIA_API_KEY", "https://integrate.api.nvidia.com/v1"),
    _declared("cerebras", "CEREBRAS_API_KEY", "https://api.cerebras.ai/v1", "max_completion_tokens"),
    _declared("databricks", "DATABRICKS_TOKEN", "https://databricks.invalid/serving-endpoints"),
    _declared("cohere", "COHERE_API_KEY", "https://api.cohere.ai/compatibility/v1"),
    _declared("lm-studio", "", "http://localhost:1234/v1"),
)
"""Those that the engine is told of: OpenAI's format at another address."""

PROVIDERS = {
    "openai": Provider("openai-chat", "openai", prices="openai"),
    "azure": Provider("azure-chat", "azure", settings=("resource",), prices="azure"),
    "azure_ai": Provider("azure-chat", "azure", settings=("resource",), prices="azure"),
    "azure_anthropic": Provider(
        "azure-anthropic", settings=("resource",), prices="anthropic", cached_beside_input=True
    ),
    "anthropic": Provider("anthropic", prices="anthropic", cached_beside_input=True),
    "gemini": Provider("gemini", prices="google", reasoning_beside_output=True),
    "vertex": Provider("vertex", settings=("project", "location"), prices="google", reasoning_beside_output=True),
    "vertex_anthropic": Provider(
        "vertex-anthropic", settings=("project", "location"), prices="google", cached_beside_input=True
    ),
    "bedrock": Provider(
        CONVERSE,
        namespaces=("bedrock", "bedrock_converse"),
        settings=("region",),
        prices="aws",
        cached_beside_input=True,
    ),
    "bedrock_chat": Provider("bedrock-chat", settings=("region",), prices="aws"),
    "bedrock_mantle": Provider("bedrock-mantle-chat", settings=("region",), prices="aws"),
    "bedrock_anthropic": Provider("bedrock-anthropic", settings=("region",), prices="aws", cached_beside_input=True),
    "groq": Provider("groq", prices="groq"),
    "openrouter": Provider("openrouter", prices="openrouter"),
    "deepseek": Provider("deepseek", prices="deepseek"),
    "xai": Provider("xai", prices="x-ai", reasoning_beside_output=True),
    "moonshot": Provider("moonshotai", "moonshotai-responses", prices="moonshotai"),
    "zai": Provider("zai", prices="zai"),
    "mistral": Provider("mistral", namespaces=("mistral",), prices="mistral"),
    "together_ai": Provider("together-ai", namespaces=("together_ai",), prices="together"),
    "fireworks_ai": Provider("fireworks-ai", namespaces=("fireworks_ai",), prices="fireworks"),
    "perplexity": Provider("perplexity", namespaces=("perplexity",), prices="perplexity"),
    "nvidia_nim": Provider("nvidia-nim", namespaces=("nvidia_nim",)),
    "cerebras": Provider("cerebras", namespaces=("cerebras",), prices="cerebras"),
    "databricks": Provider("databricks", namespaces=("databricks",), prices="databricks"),
    "cohere": Provider("cohere", namespaces=("cohere", "cohere_chat"), prices="cohere"),
    "vllm": Provider("vllm", keyless=True),
    "sglang": Provider("sglang", keyless=True),
    "ollama": Provider("ollama", keyless=True),
    "lm_studio": Provider("lm-studio", keyless=True),
}
"""By the name that the docs use."""

SPELLINGS = {
    "azure_openai": "azure",
    "google": "gemini",
    "vertex_ai": "vertex",
    "moonshotai": "moonshot",
    "together": "together_ai",
    "fireworks": "fireworks_ai",
    "nvidia": "nvidia_nim",
    "cohere_chat": "cohere",
    "hosted_vllm": "vllm",
    "ollama_chat": "ollama",
    "lmstudio": "lm_studio",
    "x_ai": "xai",
    "z_ai": "zai",
    "bedrock_converse": "bedrock",
}
"""What litellm, DSPy's engine and people write instead."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a model's calls go: the provider's name here, the engine's door, and the model as the provider calls it."""

    provider: str
    door: str
    model: str

    @property
    def facts(self) -> Provider:
        """What is known of the provider."""
        return PROVIDERS[self.provider]


def route(model: str, api: Api = "chat") -> Route:
    """Reads `provider/model`, or the engine's own `door:model`. Raises UnknownProviderError, which names the nearest
    provider that there is."""
    prefix, slash, name = model.partition("/")
    if not slash or ":" in prefix:
        return _by_door(model)
    spelled = prefix.lower().replace("-", "_").replace(".", "_")
    provider, name = _by_model(SPELLINGS.get(spelled, spelled), name)
    if provider not in PROVIDERS or not name:
        raise UnknownProviderError(_unknown(prefix, spelled, name or "<model>"))
    facts = PROVIDERS[provider]
    door = facts.responses if api == "responses" else facts.chat
    if not door:
        speaking = ", ".join(name for name, each in PROVIDERS.items() if each.responses)
        raise UnknownProviderError(f"{provider} has no Responses API; those that have one: {speaking}")
    return Route(provider, door, name)


def _by_door(model: str) -> Route:
    door, colon, name = model.partition(":")
    door = door.replace("_", "-")
    for provider, facts in PROVIDERS.items():
        if colon and name and door in (facts.chat, facts.responses):
            return Route(provider, door, name)
    bare = name if colon and name else model
    raise UnknownProviderError(f"{model!r} names no provider: write it as provider/model, such as openai/{bare}")


def _by_model(provider: str, name: str) -> tuple[str, str]:
    """Where one name of litellm covers several doors: Claude has its own at Google and in Azure's Foundry."""
    if provider == "bedrock":
        return provider, name.removeprefix("converse/")
    if provider in ("vertex", "azure_ai") and name.lower().startswith("claude"):
        return {"vertex": "vertex_anthropic", "azure_ai": "azure_anthropic"}[provider], name
    return provider, name


def _unknown(prefix: str, spelled: str, name: str) -> str:
    known = {**{each: each for each in PROVIDERS}, **SPELLINGS}
    near = difflib.get_close_matches(spelled, known, n=1, cutoff=0.6)
    hint = f"did you mean {known[near[0]]}/{name}?" if near else f"these are: {', '.join(sorted(PROVIDERS))}."
    return f"{prefix!r} is no provider; {hint} A server that speaks OpenAI's format is openai/{name} with apiBase"


@dataclass(frozen=True, slots=True)
class Wire:
    """What of a call is no part of the provider's format: put into each request on its way out."""

    headers: tuple[tuple[str, str], ...] = ()
    anonymous: bool = False
    """No credential is sent."""
    deployment: str = ""
    """Of Azure's classic API: the deployment, which stands in the path there."""
    api_version: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    """Fields of the body that DSPy knows nothing of, such as vLLM's `guided_json`."""


def classic_azure(api_base: str) -> tuple[str, str, str]:
    """Azure's resource, deployment and API version out of the address that its portal shows for a classic deployment
    (`.../openai/deployments/<name>/chat/completions?api-version=...`); the two last are empty for any other."""
    parts = urlsplit(api_base)
    version = parse_qs(parts.query).get("api-version", [""])[0]
    if not version:
        return api_base, "", ""
    segments = [segment for segment in parts.path.split("/") if segment]
    deployment = segments[segments.index("deployments") + 1] if "deployments" in segments[:-1] else ""
    return f"{parts.scheme}://{parts.netloc}", deployment, version
