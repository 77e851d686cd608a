"""Resolves a model uri to a version's identity: number, model id, digest of its files, Python and DSPy.

Three refusals are told apart: no such alias, no such model or version, and a registry that does not answer. Answers are
kept for a while, so that many programs on one alias ask once.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import yaml

from dspy_operator.api.reasons import Reason
from dspy_operator.domain.snapshot import Problem, Version
from dspy_operator.registry.uri import ModelUri, parse
from dspy_operator.settings import RegistrySettings

API = "/api/2.0/mlflow"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
TIMEOUT = aiohttp.ClientTimeout(total=20, connect=3)
FILE_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=3, sock_read=20)
PATIENCE_SECONDS = 0.5
"""How long a pass waits for an answer before it goes on with what is known."""
LARGEST_TEXT_BYTES = 1 << 20
LARGEST_VERSION = 2**31 - 1
"""A greater number does not fit the registry's own tables, which it answers with a failure of its own."""


@dataclass(frozen=True, slots=True)
class _Answer:
    at: float
    result: Version | Problem


class Registry:
    """One registry. Every method is safe to call from many passes at once."""

    def __init__(self, settings: RegistrySettings, keep_seconds: float) -> None:
        self.url = settings.url.rstrip("/")
        self._token_file = settings.token_file
        self._keep_seconds = keep_seconds
        self._session: aiohttp.ClientSession | None = None
        self._answers: dict[str, _Answer] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._versions: dict[tuple[str, str, str], Version] = {}

    async def close(self) -> None:
        """Closes the connections."""
        for task in self._asking.values():
            task.cancel()
        if self._session is not None:
            await self._session.close()

    async def resolve(self, uri: str) -> Version | Problem:
        """What the uri means, as far as is known: a registry that is slow must not hold up a release.

        Raises InvalidSpecError for a uri that is none.
        """
        parsed = parse(uri)
        known = self._answers.get(uri)
        if known is None or time.monotonic() - known.at >= self._keep_seconds:
            if uri not in self._asking:
                self._asking[uri] = asyncio.create_task(self._refresh(uri, parsed))
            await asyncio.wait({self._asking[uri]}, timeout=PATIENCE_SECONDS)
            known = self._answers.get(uri)
        return known.result if known else Problem(Reason.RESOLVING, f"The registry is being asked for {uri}")

    async def _refresh(self, uri: str, parsed: ModelUri) -> None:
        try:
            self._answers[uri] = _Answer(time.monotonic(), await self._ask(uri, parsed))
        finally:
            del self._asking[uri]

    async def _ask(self, uri: str, parsed: ModelUri) -> Version | Problem:
        try:
            found = await self._find(parsed)
            if isinstance(found, Problem):
                return found
            return await self._identify(parsed.name, found)
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

    async def _identify(self, name: str, found: dict[str, Any]) -> Version | Problem:
        number, source = str(found["version"]), str(found.get("source", ""))
        key = (name, number, f"{source} {found.get('creation_timestamp')}")
        if key not in self._versions:
            status, content = await self._get(
                f"{API}/model-versions/get-download-uri", {"name": name, "version": number}
            )
            artifact_uri = str(content.get("artifact_uri", ""))
            if status != 200 or not artifact_uri.startswith("mlflow-artifacts:/"):
                place = artifact_uri or "no place"
                words = (
                    f"The files of {name} version {number} are at {place}: the server must run with --serve-artifacts"
                )
                return Problem(Reason.ARTIFACTS_NOT_SERVED, words)
            self._versions[key] = await self._read(
                name, number, source, artifact_uri.removeprefix("mlflow-artifacts:").lstrip("/")
            )
        return self._versions[key]

    async def _read(self, name: str, number: str, source: str, root: str) -> Version:
        digest = hashlib.sha256()
        texts: dict[str, str] = {}
        async for path in self._files(root, ""):
            content = await self._hash(f"{root}/{path}", keep=path in ("python_env.yaml", "requirements.txt"))
            digest.update(f"{path}\0{content[0]}\0".encode())
            texts[path] = content[1]
        environment = yaml.safe_load(texts.get("python_env.yaml", "")) or {}
        model_id = source.removeprefix("models:/") if source.startswith("models:/m-") else ""
        return Version(
            uri=f"models:/{name}/{number}",
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
        async with self._open().get(
            f"{self.url}{ARTIFACTS}/{quote(path)}", headers=self._headers(), timeout=FILE_TIMEOUT
        ) as response:
            response.raise_for_status()
            async for chunk in response.content.iter_chunked(1 << 16):
                digest.update(chunk)
                if keep and len(text) < LARGEST_TEXT_BYTES:
                    text += chunk
        return digest.hexdigest(), text.decode("utf-8", "replace")

    async def _get(self, path: str, query: dict[str, str]) -> tuple[int, dict[str, Any]]:
        async with self._open().get(f"{self.url}{path}", params=query, headers=self._headers()) as response:
            if response.status >= 500 or "json" not in response.content_type:
                raise ValueError(f"the registry answered {response.status}")
            return response.status, await response.json()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=TIMEOUT)
        return self._session

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {Path(self._token_file).read_text().strip()}"} if self._token_file else {}


def _no_version(parsed: ModelUri) -> Problem:
    what = f"version {parsed.version} of the model {parsed.name}" if parsed.version else f"model {parsed.name}"
    return Problem(Reason.MODEL_NOT_FOUND, f"The registry has no {what}")


def _pinned(requirements: str, package: str) -> str:
    match = re.search(rf"^{package}==([\w.]+)\s*(?:;|$)", requirements, re.MULTILINE)
    return match[1] if match else ""
