"""Asks an MLflow registry what a model uri means: the version's number, model id, the digest of its files, Python and
DSPy.

Three refusals are told apart: no such alias, no such model or version, and a registry that does not answer.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import mimetypes
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import quote

import aiohttp
import yaml

from dspy_contract.artifact import digest_of, pack
from dspy_contract.logs import Logger
from dspy_operator.api.reasons import Reason
from dspy_operator.domain.snapshot import Problem, Version
from dspy_operator.registry.requirements import missing
from dspy_operator.registry.uri import Identity, ModelUri, parse
from dspy_operator.settings import RegistrySettings, read_secret

API = "/api/2.0/mlflow"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
TIMEOUT = aiohttp.ClientTimeout(total=20, connect=3)
FILE_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=3, sock_read=20)
STREAMED_AT_ONCE = 4
"""Versions whose files are read at once."""

PATIENCE_SECONDS, SLOWEST_BYTES_A_SECOND = 60.0, 50_000
"""A file that comes more slowly than this, after that patience, gives its place back and is asked for later."""

REFUSALS = (401, 403)
_READ = {"python_env.yaml": 8 << 10, "requirements.txt": 1 << 20}
"""Files that say what a version needs, and the most bytes of each: YAML is parsed at some 100 kB a second."""

LARGEST_ARCHIVE_BYTES = 256 << 10
"""Of the packed files of a version that is kept in the cluster, as a Secret; a Secret holds 1 MiB."""

LARGEST_KEPT_BYTES = 8 << 20
"""Of all files of a version, unpacked: larger ones are not tried to be packed."""

ARCHIVES_BYTES = 16 << 20
"""Archives that are held in memory until their Secrets are made; one that is not is read again."""

LARGEST_VERSION = 2**31 - 1
"""A greater number does not fit the registry's own tables, which it answers with a failure of its own."""

_UNANSWERED = (aiohttp.ClientError, TimeoutError, OSError, KeyError, ValueError)
log = Logger(__name__)


class Registry:
    """One registry. Files are read over connections of their own, so that they hold up no look-up."""

    def __init__(self, settings: RegistrySettings) -> None:
        self.url = settings.url.rstrip("/")
        self._settings = settings
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._archives: dict[str, bytes] = {}
        self._reading: dict[str, asyncio.Task[None]] = {}
        """By digest: what is read again for its archive."""
        self._streaming = asyncio.Semaphore(STREAMED_AT_ONCE)

    async def close(self) -> None:
        """Closes the connections."""
        for task in self._reading.values():
            task.cancel()
        for session in self._sessions.values():
            await session.close()

    async def ask(self, uri: ModelUri) -> Identity | Problem:
        """What a uri means now."""
        try:
            found = await self._find(uri)
        except _UNANSWERED as error:
            return _unavailable(uri, error)
        if isinstance(found, Problem):
            return found
        source = str(found.get("source", ""))
        model_id = source.removeprefix("models:/") if source.startswith("models:/m-") else ""
        return Identity(uri.name, str(found["version"]), model_id, f"{source} {found.get('creation_timestamp')}")

    async def read(self, identity: Identity) -> Version | Problem:
        """A version, by its files, which are streamed."""
        try:
            return await self._read(identity.name, identity.number, identity.model_id)
        except (yaml.YAMLError, AttributeError, TypeError) as error:
            return Problem(Reason.MODEL_INVALID, f"The files of {identity.uri} cannot be read: {type(error).__name__}")
        except _UNANSWERED as error:
            return _unavailable(identity.uri, error)

    async def write(self, uri: str, alias: str, tags: Mapping[str, str]) -> Problem | None:
        """Has an alias (empty: none) name a version, and gives it tags. Why the registry does not take them, if so."""
        parsed = parse(uri)
        version = {"name": parsed.name, "version": str(parsed.version)}
        try:
            for key, value in tags.items():
                problem = await self._post("model-versions/set-tag", {**version, "key": key, "value": value})
                if problem:
                    return problem
            return await self._post("registered-models/alias", {**version, "alias": alias}) if alias else None
        except _UNANSWERED as error:
            return _unavailable(uri, error)

    async def _post(self, path: str, body: Mapping[str, str]) -> Problem | None:
        session = self._open("questions", TIMEOUT)
        async with session.post(f"{self.url}{API}/{path}", json=body, headers=self._headers()) as response:
            if response.status in REFUSALS:
                return Problem(Reason.REGISTRY_DENIED, _denied(response.status))
            if response.status >= 500 or response.status == 429:
                raise ValueError(f"the registry answered {response.status}")
            if response.status >= 400:
                # Whatever stands between may answer with a page of its own.
                code = re.search(r'"error_code": *"([A-Z_]{1,60})"', await response.text(errors="replace"))
                words = f"The registry answered {response.status} {code[1] if code else ''}".rstrip()
                return Problem(Reason.INVALID, words)
            return None

    def archive(self, version: Version) -> bytes | None:
        """The packed files of a version. None while they are not at hand: then they are being read again."""
        if version.digest not in self._archives and version.digest not in self._reading:
            self._reading[version.digest] = asyncio.create_task(self._read_again(version))
        return self._archives.get(version.digest)

    async def _read_again(self, version: Version) -> None:
        try:
            found = await self._read(parse(version.uri).name, version.number, version.model_id)
            if isinstance(found, Problem):
                log.warning("A version's files cannot be had", uri=version.uri, why=found.message)
            elif found.digest != version.digest:
                log.warning("A version's files are others than its revision was made of", uri=version.uri)
        except Exception as error:  # whatever the registry answers now, whoever needs the files asks again
            log.warning("A version's files could not be read", uri=version.uri, error=type(error).__name__)
        finally:
            del self._reading[version.digest]

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
        if status in REFUSALS:
            return Problem(Reason.REGISTRY_DENIED, _denied(status))
        code = content.get("error_code")
        if code == "INVALID_PARAMETER_VALUE" and parsed.alias is not None:
            advice = f"set it, or name a version such as models:/{parsed.name}/1"
            words = f"The model {parsed.name} has no alias {parsed.alias}: {advice}"
            return Problem(Reason.ALIAS_NOT_FOUND, words)
        if code == "RESOURCE_DOES_NOT_EXIST":
            return _no_version(parsed)
        return Problem(Reason.REGISTRY_UNAVAILABLE, f"The registry answered {status} for {parsed.name}")

    async def _read(self, name: str, number: str, model_id: str) -> Version | Problem:
        async with self._streaming:
            return await self._read_files(name, number, model_id)

    async def _read_files(self, name: str, number: str, model_id: str) -> Version | Problem:
        status, content = await self._get(f"{API}/model-versions/get-download-uri", {"name": name, "version": number})
        if status in REFUSALS:
            return Problem(Reason.REGISTRY_DENIED, _denied(status))
        place = str(content.get("artifact_uri", ""))
        if status != 200 or not place.startswith("mlflow-artifacts:/"):
            words = f"The files of {name} version {number} are at {place or 'no place'}"
            return Problem(Reason.ARTIFACTS_NOT_SERVED, f"{words}: the server must run with --serve-artifacts")
        root = place.removeprefix("mlflow-artifacts:").lstrip("/")
        hashes: dict[str, str] = {}
        files: dict[str, bytes] = {}
        left = LARGEST_KEPT_BYTES
        async for path in self._files(root, ""):
            hashes[path], kept = await self._hash(f"{root}/{path}", _READ.get(path, left))
            if kept is not None:
                files[path] = kept
                left -= min(left, len(kept))
            elif path in _READ:
                words = f"{path} of {name} version {number} is larger than {_READ[path] >> 10} KiB"
                return Problem(Reason.MODEL_INVALID, words)
        return await self._version(f"models:/{name}/{number}", number, model_id, hashes, files)

    async def _version(
        self, uri: str, number: str, model_id: str, hashes: Mapping[str, str], files: Mapping[str, bytes]
    ) -> Version:
        digest = digest_of(hashes)
        environment = yaml.safe_load(files.get("python_env.yaml", b"")) or {}
        python = _minor(str(environment.get("python", "")))
        requirements = files.get("requirements.txt", b"").decode("utf-8", "replace")
        return Version(
            uri=uri,
            number=number,
            model_id=model_id,
            digest=digest,
            python=python,
            dspy=_pinned(requirements, "dspy"),
            archive_bytes=await self._keep(digest, files) if files.keys() == hashes.keys() else 0,
            missing=missing(requirements, python),
        )

    async def _keep(self, digest: str, files: Mapping[str, bytes]) -> int:
        """Keeps the packed files for a while; returns their size, 0 for those that are too large."""
        archive = await asyncio.to_thread(pack, files)
        if len(archive) > LARGEST_ARCHIVE_BYTES:
            return 0
        self._archives[digest] = archive
        while sum(map(len, self._archives.values())) > ARCHIVES_BYTES:
            del self._archives[next(iter(self._archives))]
        return len(archive)

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

    async def _hash(self, path: str, most_bytes: int) -> tuple[str, bytes | None]:
        """The hash of a file, and the file; None for one that is larger."""
        digest, content = hashlib.sha256(), bytearray()
        place = f"{self.url}{ARTIFACTS}/{quote(path)}"
        async with self._open("files", FILE_TIMEOUT).get(place, headers=self._headers()) as response:
            response.raise_for_status()
            if response.content_type == "text/html" != mimetypes.guess_type(path)[0]:
                raise ValueError(f"a page came instead of {path}")
            loop, size = asyncio.get_running_loop(), 0
            began = loop.time()
            async for chunk in response.content.iter_chunked(1 << 16):
                digest.update(chunk)
                size += len(chunk)
                if loop.time() - began > PATIENCE_SECONDS + size / SLOWEST_BYTES_A_SECOND:
                    raise TimeoutError(f"{path} comes too slowly")
                if len(content) <= most_bytes:
                    content += chunk
        return digest.hexdigest(), bytes(content) if len(content) <= most_bytes else None

    async def _get(self, path: str, query: dict[str, str]) -> tuple[int, dict[str, Any]]:
        session = self._open("questions", TIMEOUT)
        async with session.get(f"{self.url}{path}", params=query, headers=self._headers()) as response:
            if response.status in REFUSALS:
                return response.status, {}
            if response.status >= 500 or "json" not in response.content_type:
                raise ValueError(f"the registry answered {response.status}")
            return response.status, await response.json()

    def _open(self, purpose: str, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientSession:
        if purpose not in self._sessions:
            self._sessions[purpose] = aiohttp.ClientSession(timeout=timeout)
        return self._sessions[purpose]

    def _headers(self) -> dict[str, str]:
        """The credentials, read anew each time: they may be rotated."""
        if self._settings.token_file:
            return {"Authorization": f"Bearer {read_secret(self._settings.token_file)}"}
        if self._settings.basic_auth_file:
            words = read_secret(self._settings.basic_auth_file)
            return {"Authorization": f"Basic {base64.b64encode(words.encode()).decode()}"}
        return {}


def _unavailable(uri: object, error: Exception) -> Problem:
    return Problem(Reason.REGISTRY_UNAVAILABLE, f"The registry did not answer for {uri}: {type(error).__name__}")


def _denied(status: int) -> str:
    advice = "token_file or basic_auth_file in DSPY_OPERATOR_REGISTRIES names the credentials"
    return f"The registry refuses the operator (HTTP {status}): {advice}"


def _no_version(parsed: ModelUri) -> Problem:
    what = f"version {parsed.version} of the model {parsed.name}" if parsed.version else f"model {parsed.name}"
    return Problem(Reason.MODEL_NOT_FOUND, f"The registry has no {what}")


def _minor(python: str) -> str:
    """The minor of a Python's version, such as 3.11; empty for what is none."""
    match = re.match(r"\d+\.\d+(?=\.|$)", python)
    return match[0] if match else ""


def _pinned(requirements: str, package: str) -> str:
    match = re.search(rf"^{package}==([\w.]+)\s*(?:;|$)", requirements, re.MULTILINE)
    return match[1] if match else ""
