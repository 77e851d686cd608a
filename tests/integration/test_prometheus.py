"""Queries to a real Prometheus, which scrapes a page of ours: numbers, no data, faults, a token."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from dev.images.debian import unpacked_package
from dspy_operator.api.rollout import PrometheusQuery, Stream
from dspy_operator.domain.analysis.readings import Reading, told
from dspy_operator.prometheus_queries import PrometheusQueries
from dspy_operator.settings import PrometheusSettings
from tests.integration.gateway import free_port, until

PAGE = """# TYPE cost_dollars gauge
cost_dollars{revision="old"} 1
cost_dollars{revision="new"} 1.5
cost_dollars{revision="new",pod="a"} NaN
"""
COST = 'cost_dollars{revision="$revision",pod=""}'
TOKEN = "s3cret"


@pytest.fixture
async def prometheus(tmp_path: Path) -> AsyncIterator[str]:
    """A Prometheus that has scraped the page, behind a door that wants the token; its address."""
    if shutil.which("apt-get") is None:
        pytest.skip("Prometheus comes from Debian's packages, and there is no apt-get")
    binary = (await asyncio.to_thread(unpacked_package, "prometheus")) / "usr/bin/prometheus"
    page, port, door = free_port(), free_port(), free_port()

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(text=PAGE)

    async def guarded(request: web.Request) -> web.Response:
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return web.Response(status=401, text="who are you?")
        body = await request.read()
        headers = {"content-type": request.headers["content-type"]}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://127.0.0.1:{port}{request.path}", data=body, headers=headers) as response,
        ):
            return web.Response(status=response.status, body=await response.read(), content_type=response.content_type)

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.post("/api/v1/query", guarded)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    for each in (page, door):
        await web.TCPSite(runner, "127.0.0.1", each).start()
    config = tmp_path / "prometheus.yml"
    targets = f"[{{targets: ['127.0.0.1:{page}']}}]"
    config.write_text(f"scrape_configs: [{{job_name: own, scrape_interval: 200ms, static_configs: {targets}}}]\n")
    process = await asyncio.create_subprocess_exec(
        binary,
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    try:
        await until(lambda: _has_scraped(f"http://127.0.0.1:{port}"), "the page is scraped")
        yield f"http://127.0.0.1:{door}"
    finally:
        os.kill(process.pid, signal.SIGTERM)
        await process.wait()
        await runner.cleanup()


async def _has_scraped(url: str) -> bool:
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{url}/api/v1/query", params={"query": "cost_dollars"}) as response,
        ):
            return len((await response.json())["data"]["result"]) == 3
    except (aiohttp.ClientError, KeyError):
        return False


async def read(servers: dict[str, PrometheusSettings], query: PrometheusQuery, namespace: str = "ns") -> Reading:
    """What is known after the first answer."""
    woken = asyncio.Event()
    queries = PrometheusQueries(servers, lambda *_: woken.set())
    try:
        streams = (Stream("spend", prometheus=query),)
        queries.of(namespace, "qa", streams, "old", "new")
        async with asyncio.timeout(30):
            await woken.wait()
        return queries.of(namespace, "qa", streams, "old", "new")["spend"]
    finally:
        await queries.close()


async def test_numbers_of_a_real_prometheus(prometheus: str, tmp_path: Path) -> None:
    servers = {"default": PrometheusSettings(url=prometheus, token_file=str(tmp_path / "token"), namespaces=["ns"])}

    async def words(
        query: str, namespace: str = "ns", server: str = "default", tolerance_percent: float | None = None
    ) -> str:
        asked = PrometheusQuery(query, server, 1.0 if tolerance_percent is None else None, tolerance_percent)
        return told(asked, await read(servers, asked, namespace)).message

    assert await words('cost_dollars{revision="$stable"}') == "1, at most 1"
    assert await words('cost_dollars{revision="$candidate",pod=""}') == "1.5, above 1"
    assert await words(COST, tolerance_percent=60) == "1.5, at most 1.6, 60% above 1 of stable"
    assert await words(COST, tolerance_percent=10) == "1.5, above 1.1, 10% above 1 of stable"
    assert await words("nothing_of_that_name") == "the query has no data"
    assert await words('cost_dollars{pod="a"}') == "the query says nan"
    assert await words("cost_dollars") == "the query has 3 series; it must have one"
    assert (await words("sum(")).startswith("Prometheus refuses the query: ")
    assert await words("1", namespace="other") == "the operator has no Prometheus default for this namespace"
    assert await words("1", server="other") == "the operator has no Prometheus other for this namespace"
    (tmp_path / "token").write_text("another")
    assert await words("1") == "Prometheus answers 401"


async def test_a_prometheus_that_is_away_or_silent_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dspy_operator.prometheus_queries.ANSWER_SECONDS", 0.3)

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the client goes
        writer.close()

    silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    servers = {
        "away": PrometheusSettings(url=f"http://127.0.0.1:{free_port()}", namespaces=["*"]),
        "silent": PrometheusSettings(url=f"http://127.0.0.1:{port}", namespaces=["*"]),
    }
    for name, kind in (("away", "ClientConnectorError"), ("silent", "TimeoutError")):
        assert (
            await read(servers, PrometheusQuery("1", name, max=1.0))
        ).problem == f"Prometheus does not answer: {kind}"
    silent.close()


async def test_an_odd_answer_is_not_known_and_the_next_is_asked_for() -> None:
    """An old number must not stand for ever."""
    good = '{"status": "success", "data": {"resultType": "scalar", "result": [0, "%d"]}}'
    odd = ["null", "[]", '"x"', "{", good % 10**400, "[" * 200_000, '{"status": "success", "data": 3}']
    answers = iter([text for each in odd for text in (good % 1, each)])
    asked = 0

    async def answer(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.Response(text=next(answers, good % 9), content_type="application/json")

    app, port = web.Application(), free_port()
    app.router.add_post("/api/v1/query", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    told_apart: list[str] = []
    servers = {"default": PrometheusSettings(url=f"http://127.0.0.1:{port}", namespaces=["*"])}
    streams = (Stream("spend", prometheus=PrometheusQuery("1", max=5.0, every_seconds=0)),)
    queries = PrometheusQueries(servers, lambda *_: told_apart.append(known().problem))

    def known() -> Reading:
        return queries.of("ns", "qa", streams, "old", "new")["spend"]

    try:
        queries.of("ns", "qa", streams, "old", "new")
        await until(lambda: asked > 2 * len(odd), "it goes on asking")
        await until(lambda: known().candidate == 9.0, "the last number counts")
    finally:
        await queries.close()
        await runner.cleanup()
    assert sum(bool(problem) for problem in told_apart) == len(odd)
