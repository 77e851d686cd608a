"""Every provider as the tests call it at the stand-in: how it is configured, where its calls must go, how they must say
who calls, and what its model can do. docs/providers.md is printed from these rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

KEY = "test-key-0123456789"
AWS = {"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "test-secret", "AWS_EC2_METADATA_DISABLED": "true"}


@dataclass(frozen=True)
class Row:
    """One provider: how it is configured, where its calls must go, and how they must say who calls."""

    model: str
    path: str
    identity: tuple[str, str] = ("Authorization", f"Bearer {KEY}")
    base: str = "/v1"
    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    structured: bool = True
    tools: bool = True
    variant: str = ""

    @property
    def provider(self) -> str:
        """The provider as users name it."""
        return self.model.partition("/")[0]

    @property
    def plain(self) -> bool:
        """True where plain `dspy.LM` takes the same name and address."""
        by_name = self.provider not in ("azure", "azure_anthropic", "vertex", "bedrock", "bedrock_anthropic")
        return by_name and self.provider not in ("bedrock_chat", "bedrock_mantle", "sglang", "zai", "vllm", "lm_studio")

    @property
    def name(self) -> str:
        """What the test is called."""
        return "-".join(filter(None, (self.provider, self.variant, self.settings.get("api", ""))))


CHAT = "/v1/chat/completions"
AZURE = ("api-key", KEY)
SIGNED = ("authorization", "AWS4-HMAC-SHA256 Credential=AKIATEST/")
NO_KEY = {"api_key_file": None}
AT_GOOGLE = {"project": "shop", "location": "europe-west1"}
VERTEX = "/v1/projects/shop/locations/europe-west1/publishers"
ROWS = (
    Row("openai/gpt-4o-mini", CHAT),
    Row("openai/gpt-4o-mini", "/v1/responses", settings={"api": "responses"}),
    Row("azure/gpt-4o-mini", "/openai/v1/chat/completions", AZURE, ""),
    Row("azure/gpt-4o-mini", "/openai/v1/responses", AZURE, "", {"api": "responses"}),
    Row(
        "azure/gpt-4o-mini",
        "/openai/deployments/gpt-4o-mini/chat/completions?api-version=2024-10-21",
        AZURE,
        "/openai/deployments/gpt-4o-mini?api-version=2024-10-21",
        variant="classic",
    ),
    Row("azure_anthropic/claude-sonnet-4-5", "/anthropic/v1/messages", ("x-api-key", KEY), ""),
    Row("anthropic/claude-sonnet-4-5", "/v1/messages", ("x-api-key", KEY)),
    Row("gemini/gemini-2.5-flash", "/v1beta/models/gemini-2.5-flash:", ("x-goog-api-key", KEY), "/v1beta"),
    Row("vertex/gemini-2.5-flash", f"{VERTEX}/google/models/gemini-2.5-flash:", base="", settings=AT_GOOGLE),
    Row(
        "vertex/claude-sonnet-4-5",
        f"{VERTEX}/anthropic/models/claude-sonnet-4-5:",
        base="",
        settings=AT_GOOGLE,
        variant="claude",
    ),
    Row(
        "bedrock/anthropic.claude-haiku-4-5-20251001-v1:0",
        "/model/anthropic.claude-haiku-4-5-20251001-v1:0/converse",
        SIGNED,
        "",
        {"region": "eu-central-1", **NO_KEY},
        AWS,
    ),
    Row(
        "bedrock_chat/mistral.mistral-large-2407-v1:0",
        "/openai/v1/chat/completions",
        SIGNED,
        "",
        {"region": "eu-central-1", **NO_KEY},
        AWS,
        structured=False,
    ),
    Row("bedrock_mantle/openai.gpt-5.6-sol", CHAT, base="", settings={"region": "eu-central-1"}),
    Row(
        "bedrock_anthropic/claude-opus-4-7",
        "/anthropic/v1/messages",
        SIGNED,
        "",
        {"region": "eu-central-1", **NO_KEY},
        AWS,
    ),
    Row("groq/openai/gpt-oss-20b", CHAT),
    Row("openrouter/openai/gpt-4o-mini", CHAT),
    Row("deepseek/deepseek-chat", CHAT),
    Row("xai/grok-4.20-beta-0309-reasoning", CHAT),
    Row("moonshot/kimi-k2.6", CHAT),
    Row("zai/glm-5", CHAT, structured=False),
    Row("mistral/mistral-large-latest", CHAT),
    Row("together_ai/deepseek-ai/DeepSeek-V3", CHAT),
    Row("fireworks_ai/accounts/fireworks/models/gpt-oss-20b", CHAT),
    Row("perplexity/anthropic/claude-opus-4-6", CHAT),
    Row("nvidia_nim/meta/llama3-70b-instruct", CHAT, structured=False, tools=False),
    Row("cerebras/gpt-oss-120b", CHAT),
    Row("databricks/databricks-claude-fable-5", CHAT),
    Row("cohere/command-a-plus-05-2026", CHAT),
    Row("vllm/Qwen/Qwen3-8B", CHAT, ("Authorization", ""), settings=NO_KEY, structured=False, tools=False),
    Row("sglang/Qwen/Qwen3-8B", CHAT, ("Authorization", ""), settings=NO_KEY, structured=False, tools=False),
    Row("ollama/llama3.2:1b", CHAT, ("Authorization", ""), settings=NO_KEY, structured=False, tools=False),
    Row("lm_studio/qwen3-8b", CHAT, ("Authorization", ""), settings=NO_KEY, structured=False, tools=False),
)
