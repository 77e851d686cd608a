"""A registry that is ill, or has something else before it: what a real one never answers."""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from dspy_operator.domain.snapshot import Problem, Version
from dspy_operator.registry.mlflow import API, ARTIFACTS, STREAMED_AT_ONCE, Registry
from dspy_operator.registry.uri import Identity
from dspy_operator.settings import RegistrySettings
from tests.integration.gateway import until

FILES = {
    "MLmodel": b"flavors: {}\n",
    "model.pkl": b"pickle",
    "python_env.yaml": b"python: 3.12.4\n",
    "requirements.txt": b"dspy==3.4.1\n",
}
IDENTITY = Identity("qa", "1", "m-1", "")
Answer = Callable[[web.Request, str], Awaitable[web.StreamResponse | None]]


class Server:
    """The API's three answers. `answer` may answer otherwise for a file."""

    def __init__(self) -> None:
        self.files = dict(FILES)
        self.answer: Answer = no_other
        self.trickling = 0
        self.registry: Registry

    async def uri(self, request: web.Request) -> web.Response:
        """Where a version's files are."""
        return web.json_response({"artifact_uri": f"mlflow-artifacts:/{request.query['name']}"})

    async def list(self, request: web.Request) -> web.Response:
        """Which there are."""
        return web.json_response({"files": [{"path": name, "is_dir": False} for name in self.files]})

    async def file(self, request: web.Request) -> web.StreamResponse:
        """One of them."""
        name = request.path.rpartition("/")[2]
        self.trickling += self.answer is trickle
        content_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return await self.answer(request, name) or web.Response(body=self.files[name], content_type=content_type)


async def no_other(request: web.Request, name: str) -> None:
    """As it should be."""


async def trickle(request: web.Request, name: str) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"x")
        await asyncio.sleep(0.05)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server, app = Server(), web.Application()
    app.router.add_get(f"{API}/model-versions/get-download-uri", server.uri)
    app.router.add_get(ARTIFACTS, server.list)
    app.router.add_get(f"{ARTIFACTS}/{{path:.*}}", server.file)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.registry = Registry(RegistrySettings(url=f"http://127.0.0.1:{runner.addresses[0][1]}"))
    yield server
    await server.registry.close()
    await runner.cleanup()


async def test_a_page_instead_of_a_file_is_no_answer(server: Server) -> None:
    async def page(request: web.Request, name: str) -> web.StreamResponse | None:
        return web.Response(text="<html>Sign in</html>", content_type="text/html") if name == "model.pkl" else None

    server.answer = page
    found = await server.registry.read(IDENTITY)
    assert isinstance(found, Problem)
    assert found.reason == "RegistryUnavailable"
    server.answer = no_other
    assert isinstance(await server.registry.read(IDENTITY), Version)


async def test_a_page_that_is_a_file_is_one(server: Server) -> None:
    server.files |= {"report.html": b"<html></html>", "REPORT.HTML": b"<html></html>"}
    assert isinstance(await server.registry.read(IDENTITY), Version)


async def test_an_environment_that_takes_seconds_to_parse_is_refused(server: Server) -> None:
    server.files["python_env.yaml"] = b"python: 3.12.4\nx: [" + b"a," * 500_000 + b"]\n"
    found = await server.registry.read(IDENTITY)
    assert isinstance(found, Problem)
    assert (found.reason, "python_env.yaml" in found.message) == ("ModelInvalid", True)


async def test_files_that_come_slowly_give_their_places_back(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dspy_operator.registry.mlflow.PATIENCE_SECONDS", 0.2)
    server.answer = trickle
    slow = [asyncio.create_task(server.registry.read(IDENTITY)) for _ in range(STREAMED_AT_ONCE)]
    for found in await asyncio.gather(*slow):
        assert isinstance(found, Problem)
        assert found.reason == "RegistryUnavailable"
    server.answer = no_other
    assert isinstance(await server.registry.read(IDENTITY), Version)


async def test_who_needs_files_again_waits_for_no_registry(server: Server) -> None:
    version = await server.registry.read(IDENTITY)
    assert isinstance(version, Version)
    again = Registry(RegistrySettings(url=server.registry.url))
    server.answer = trickle
    assert again.archive(version) is None
    await until(lambda: server.trickling > 0, "they are being read")
    assert again.archive(version) is None
    assert server.trickling == 1, "once"
    await again.close()
    again = Registry(RegistrySettings(url=server.registry.url))
    server.answer = no_other
    await until(lambda: again.archive(version) is not None, "the files are at hand")
    assert len(again.archive(version) or b"") == version.archive_bytes
    await again.close()
