"""The language model by the configuration, never by the artifact, and its key by a file that may be rotated.

DSPy's own engine objects carry the calls: litellm is never imported, no price map is downloaded, and a thousand
connections fit where the default pool has a hundred.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy
from dspy.clients.engines import AsyncLM15Engine, LM15Engine
from dspy.lm15 import RouterConfig, Timeouts

from dspy_runtime.failures import LMConfigurationError, described
from dspy_runtime.settings import Settings

PROVIDERS = {
    "openai": "openai-chat",
    "anthropic": "anthropic",
    "gemini": "gemini",
    "groq": "groq",
    "openrouter": "openrouter",
    "deepseek": "deepseek",
    "xai": "xai",
    "ollama": "ollama",
    "ollama_chat": "ollama",
    "hosted_vllm": "vllm",
    "moonshot": "moonshotai",
    "azure": "azure-chat",
}
"""DSPy's prefix of a model's name -> the engine's name of the provider."""

CONNECT_SECONDS = 5.0
KEY_CHECK_SECONDS = 5.0
CLOSE_NOTICE_SECONDS = 30.0
NO_KEY = "none"
"""What is sent where neither a key nor a key in the environment is meant: self-hosted servers ignore it."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A DSPy language model with the two engines that carry its calls."""

    lm: Any
    engine: Any
    async_engine: Any

    async def close(self) -> None:
        """Closes the connections to the provider."""
        await self.async_engine.aclose()
        self.engine.close()


class LanguageModel:
    """The language model in force. A new key makes a new one; calls that run keep the old."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._key = self._read_key()
        self.current = connect(settings, self._key)

    async def follow_key(self) -> None:
        """Replaces the language model whenever the key file's content has changed, for ever."""
        while True:
            await asyncio.sleep(KEY_CHECK_SECONDS)
            key = self._read_key()
            if key and key != self._key:
                before, self._key = self.current, key
                self.current = connect(self._settings, key)
                asyncio.get_running_loop().call_later(
                    self._settings.timeout_seconds + CLOSE_NOTICE_SECONDS, _close_soon, before
                )

    def _read_key(self) -> str | None:
        path = self._settings.lm_api_key_file
        if path is None:
            return NO_KEY if self._settings.lm_api_base and not _key_in_environment(self._settings.lm_model) else None
        return _text(path)


def connect(settings: Settings, key: str | None) -> Connection:
    """A language model for these settings. Raises LMConfigurationError."""
    prefix, _, name = settings.lm_model.partition("/")
    if not name or prefix not in PROVIDERS:
        known = ", ".join(sorted(PROVIDERS))
        raise LMConfigurationError(
            f"lm.model {settings.lm_model!r} must be <provider>/<model> with a provider of: {known}"
        )
    if settings.lm_api_key_file is not None and not key:
        raise LMConfigurationError("the API key's file is missing or empty; check lm.credentials.apiKey")
    try:
        engine, async_engine = (
            LM15Engine(_router(settings, prefix, key)),
            AsyncLM15Engine(_router(settings, prefix, key)),
        )
        lm = dspy.LM(
            settings.lm_model,
            cache=False,
            num_retries=settings.lm_max_retries,
            engine=engine,
            async_engine=async_engine,
            **settings.lm_parameters,
        )
    except (ValueError, TypeError, dspy.DSPyError) as error:
        raise LMConfigurationError(f"lm.parameters or lm.model is refused: {described(error)}") from error
    return Connection(lm, engine, async_engine)


def _router(settings: Settings, prefix: str, key: str | None) -> Any:
    provider = PROVIDERS[prefix]
    seconds = settings.lm_timeout_seconds
    return RouterConfig(
        api_keys={provider: key} if key else None,
        base_urls={provider: settings.lm_api_base} if settings.lm_api_base else None,
        max_connections=max(2 * settings.concurrency, 100),
        timeouts=Timeouts(connect=CONNECT_SECONDS, read=seconds, write=seconds, pool=seconds),
    )


def _close_soon(connection: Connection) -> None:
    asyncio.ensure_future(connection.close())  # noqa: RUF006 nobody waits for a connection that nobody uses


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except (OSError, ValueError):
        return None


def _key_in_environment(model: str) -> bool:
    """True when a variable such as OPENAI_API_KEY is there: the engine finds it, and a placeholder would go before
    it."""
    prefix = model.partition("/")[0].upper()
    return any(name.endswith("_API_KEY") and name.startswith(prefix) for name in os.environ)
