"""Asks an MLflow registry what a model uri means: the version's number, model id, the digest of its files, Python and
DSPy.

Three refusals are told apart: no such alias, no such model or version, and a registry that does not answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import yaml

from dspy_operator.api.reasons import Reason
from dspy_operator.domain.snapshot import Problem, Version
from dspy_operator.registry.uri import ModelUri
from dspy_operator.settings import RegistrySettings

API = "/api/2.0/mlflow"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
TIMEOUT = aiohttp.ClientTimeout(total=20, connect=3)
FILE_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=3, sock_read=20)
STREAMED_AT_ONCE = 2
"""Versions whose files are read at once."""

LARGEST_TEXT_BYTES = 1 << 20
LARGEST_VERSION = 2**31 - 1
"""A greater number does not fit the registry's own tables, which it answers with a failure of its own."""


class Registry:
    """One registry. Files are read over connections of their own, so that they hold up no look-up."""

    def __init__(self, settings: RegistrySettings) -> None:
        self.url = settings.url.rstrip("/")
        self._token_file = settings.token_file
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._versions: dict[tuple[str, str, str], Version] = {}
        self._streaming = asyncio.Semaphore(STREAMED_AT_ONCE)

    async def close(self) -> None:
        """Closes the connections."""
        for session in self._sessions.values():
            await session.close()

    async def ask(self, uri: ModelUri, known: Mapping[str, Version]) -> Version | Problem:
        """What a uri means now. `known` are versions, by model id, whose files need not be read again."""
        try:
            found = await self._find(uri)
            if isinstance(found, Problem):
                return found
            return await self._identify(uri.name, found, known)
        except (yaml.YAMLError, AttributeError, TypeError) as error:
            return Problem(Reason.MODEL_INVALID, f"The files of {uri} cannot be read: {type(error).__name__}")
        except (aiohttp.ClientError, TimeoutError, OSError, KeyError, ValueError) as error:
            return Problem(
                Reason.REGISTRY_UNAVAILABLE, f"The registry did not answer for {uri}: {type(error).__name__}"
            )

    async def _find(self, parsed: ModelUri) -> dict[str, Any] | Problem:
        if parsed.version is not None and int(parsed.version) > LARGEST_VERSION:
            return _no_version(parsed)
        if parsed.alias is not None:
            status, content = await self._get(
                f"{API}/registered-models/alias", {"name": parsed.name, "alias": parsed.alias}
            )
        else:
            status, content = await self._get(
                f"{API}/model-versions/get", {"name": parsed.name, "version": str(parsed.version)}
            )
        if status == 200:
            return dict(content["model_version"])
        code = content.get("error_code")
        if code == "INVALID_PARAMETER_VALUE" and parsed.alias is not None:
            advice = f"set it, or name a version such as models:/{parsed.name}/1"
            words = f"The model {parsed.name} has no alias {parsed.alias}: {advice}"
            return Problem(Reason.ALIAS_NOT_FOUND, words)
        if code == "RESOURCE_DOES_NOT_EXIST":
            return _no_version(parsed)
        return Problem(Reason.REGISTRY_UNAVAILABLE, f"The registry answered {status} for {parsed.name}")

    async def _identify(self, name: str, found: dict[str, Any], known: Mapping[str, Version]) -> Version | Problem:
        number, source = str(found["version"]), str(found.get("source", ""))
        uri = f"models:/{name}/{number}"
        model_id = source.removeprefix("models:/") if source.startswith("models:/m-") else ""
        if model_id and model_id in known and known[model_id].uri == uri:
            return known[model_id]
        key = (name, number, f"{source} {found.get('creation_timestamp')}")
        async with self._streaming:
            if key not in self._versions:
                status, content = await self._get(
                    f"{API}/model-versions/get-download-uri", {"name": name, "version": number}
                )
                place = str(content.get("artifact_uri", ""))
                if status != 200 or not place.startswith("mlflow-artifacts:/"):
                    words = f"The files of {name} version {number} are at {place or 'no place'}"
                    advice = "the server must run with --serve-artifacts"
                    return Problem(Reason.ARTIFACTS_NOT_SERVED, f"{words}: {advice}")
                root = place.removeprefix("mlflow-artifacts:").lstrip("/")
                self._versions[key] = await self._read(uri, number, model_id, root)
        return self._versions[key]

    async def _read(self, uri: str, number: str, model_id: str, root: str) -> Version:
        digest = hashlib.sha256()
        texts: dict[str, str] = {}
        async for path in self._files(root, ""):
            content = await self._hash(f"{root}/{path}", keep=path in ("python_env.yaml", "requirements.txt"))
            digest.update(f"{path}\0{content[0]}\0".encode())
            texts[path] = content[1]
        environment = yaml.safe_load(texts.get("python_env.yaml", "")) or {}
        return Version(
            uri=uri,
            number=number,
            model_id=model_id,
            digest=digest.hexdigest(),
            python=".".join(str(environment.get("python", "")).split(".")[:2]),
            dspy=_pinned(texts.get("requirements.txt", ""), "dspy"),
        )

    async def _files(self, root: str, folder: str) -> AsyncIterator[str]:
        """Every file below the root, in a fixed order. MLflow lists one folder at a time."""
        status, content = await self._get(ARTIFACTS, {"path": f"{root}/{folder}".rstrip("/")})
        if status != 200:
            raise ValueError(f"listing answered {status}")
        for entry in sorted(content.get("files", []), key=lambda entry: str(entry["path"])):
            path = f"{folder}/{entry['path']}".lstrip("/")
            if entry["is_dir"]:
                async for inner in self._files(root, path):
                    yield inner
            else:
                yield path

    async def _hash(self, path: str, keep: bool) -> tuple[str, str]:
        digest, text = hashlib.sha256(), b""
        place = f"{self.url}{ARTIFACTS}/{quote(path)}"
        async with self._open("files", FILE_TIMEOUT).get(place, headers=self._headers()) as response:
            response.raise_for_status()
            async for chunk in response.content.iter_chunked(1 << 16):
                digest.update(chunk)
                if keep and len(text) < LARGEST_TEXT_BYTES:
                    text += chunk
        return digest.hexdigest(), text.decode("utf-8", "replace")

    async def _get(self, path: str, query: dict[str, str]) -> tuple[int, dict[str, Any]]:
        session = self._open("questions", TIMEOUT)
        async with session.get(f"{self.url}{path}", params=query, headers=self._headers()) as response:
            if response.status >= 500 or "json" not in response.content_type:
                raise ValueError(f"the registry answered {response.status}")
            return response.status, await response.json()

    def _open(self, purpose: str, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientSession:
        if purpose not in self._sessions:
            self._sessions[purpose] = aiohttp.ClientSession(timeout=timeout)
        return self._sessions[purpose]

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {Path(self._token_file).read_text().strip()}"} if self._token_file else {}


def _no_version(parsed: ModelUri) -> Problem:
    what = f"version {parsed.version} of the model {parsed.name}" if parsed.version else f"model {parsed.name}"
    return Problem(Reason.MODEL_NOT_FOUND, f"The registry has no {what}")


def _pinned(requirements: str, package: str) -> str:
    match = re.search(rf"^{package}==([\w.]+)\s*(?:;|$)", requirements, re.MULTILINE)
    return match[1] if match else ""
