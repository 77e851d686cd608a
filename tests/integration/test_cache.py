"""Answers that are given again: by a real runtime, and by several that share a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.gateway import until
from tests.integration.redis import RunningRedis, running_redis
from tests.integration.runtime import RunningProvider, Runtime, running_provider, running_runtime
from tests.integration.test_runtime import question_model, save
from tests.integration.test_streams import listen

__all__ = ["question_model", "save"]

ASKED: dict[str, Any] = {"question": "why?", "limit": 3}
CACHE = {"ttl_seconds": 60}


@pytest.fixture
async def provider() -> AsyncIterator[RunningProvider]:
    async with running_provider() as running:
        yield running


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RunningRedis]:
    async with running_redis(tmp_path) as running:
        yield running


async def ask(runtime: Runtime, content: Any = ASKED, **headers: str) -> tuple[int, Any, str]:
    """Status, body, and what the cache had to do with it."""
    async with runtime.session.post(f"{runtime.url}/predict", json=content, headers=headers) as response:
        return response.status, await response.json(), response.headers["x-dspy-cache"]


async def forget(runtime: Runtime) -> int:
    async with runtime.session.delete(f"{runtime.probe_url}/cache") as response:
        return response.status


async def lookups(runtime: Runtime, tier: str, result: str) -> float:
    told = f'dspy_runtime_cache_lookups_total{{result="{result}",revision='
    lines = (await runtime.get("/metrics")).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(told) and f'tier="{tier}"' in line)


def folder(tmp_path: Path, name: str) -> Path:
    (tmp_path / name).mkdir()
    return tmp_path / name


async def test_the_same_input_is_answered_once(question_model: Path, provider: RunningProvider, tmp_path: Path) -> None:
    async with running_runtime(question_model, provider.base, tmp_path, cache=CACHE) as runtime:
        first = await ask(runtime)
        again = await ask(runtime, {"limit": 3, "question": "why?"})
        assert (first[2], again[2], provider.provider.calls) == ("miss", "hit", 1)
        assert first[1] == again[1]
        _, _, headers = await runtime.predict(**ASKED)
        assert (headers["x-dspy-outcome"], headers["x-dspy-cost-nanousd"]) == ("ok", "0")
        assert "x-dspy-tokens" not in headers, "it took none"
        assert (await ask(runtime, {**ASKED, "limit": 4}))[2] == "miss"
        assert (await lookups(runtime, "memory", "hit"), await lookups(runtime, "memory", "miss")) == (2, 2)


async def test_what_goes_past_the_cache_and_whose_answer_is_kept(
    question_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    async with running_runtime(question_model, provider.base, tmp_path, cache=CACHE) as runtime:
        assert (await ask(runtime, **{"cache-control": "no-store"}))[2] == "bypass"
        assert (await ask(runtime))[2] == "miss", "that answer was not kept"
        provider.provider.settings.answers = {"answer": "another"}
        assert (await ask(runtime))[1]["answer"] == "A helpful answer."
        assert (await ask(runtime, **{"x-dspy-cache": "refresh"}))[1]["answer"] == "another"
        assert (await ask(runtime))[1:] == ({"reasoning": "A helpful answer.", "answer": "another"}, "hit")
        assert (await ask(runtime, **{"cache-control": "no-cache"}))[2] == "bypass"
        status, body, cached = await ask(runtime, {"question": 5})
        assert (status, body["error"]["code"], cached) == (422, "invalid_input", "miss")
        assert await forget(runtime) == 200
        assert (await ask(runtime))[2] == "miss"


async def test_an_answer_is_made_once_for_all_who_ask_at_the_same_time_whoever_leaves(
    question_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    provider.provider.settings.latency_seconds = 3.0
    async with running_runtime(question_model, provider.base, tmp_path, cache=CACHE) as runtime:
        first = asyncio.ensure_future(ask(runtime))
        await until(lambda: provider.provider.in_flight == 1, "the first one asks", 10)
        others = [asyncio.ensure_future(ask(runtime)) for _ in range(100)]

        async def all_ask() -> bool:
            return await lookups(runtime, "memory", "miss") == 101

        await until(all_ask, "all have asked", 20)
        assert provider.provider.calls == 1
        first.cancel()  # a client that leaves takes its call with it, and nobody else's
        answers = await asyncio.gather(*others)
        assert {status for status, _, _ in answers} == {200}
        assert provider.provider.calls == 2
        assert sorted(cached for _, _, cached in answers) == ["hit"] * 99 + ["miss"]


async def test_those_who_wait_for_one_that_hangs_are_told_a_timeout_and_get_an_old_answer(
    question_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    cache = {"ttl_seconds": 0.3, "stale_seconds": 60}
    async with running_runtime(question_model, provider.base, tmp_path, cache=cache, timeout_seconds=2) as runtime:
        good = (await ask(runtime))[1]
        provider.provider.settings.latency_seconds = 60.0
        await asyncio.sleep(0.4)  # it becomes old
        answers = await asyncio.gather(*(runtime.predict(**ASKED) for _ in range(6)))
        assert all(body == good for _, body, _ in answers)
        assert {headers["x-dspy-outcome"] for _, _, headers in answers} == {"timeout"}
        answers = await asyncio.gather(*(runtime.predict(question="another", limit=1) for _ in range(6)))
        assert {status for status, _, _ in answers} == {504}


async def test_requests_that_are_judged_get_what_is_kept_when_nobody_answers(
    question_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    async with running_runtime(question_model, provider.base, tmp_path, cache=CACHE) as runtime:
        good = (await ask(runtime))[1]
        provider.provider.settings.error_share = 1.0
        assert await ask(runtime, **{"x-dspy-cache": "refresh"}) == (200, good, "stale")
        assert (await ask(runtime, **{"cache-control": "no-cache"}))[::2] == (502, "bypass"), "that client wants none"


async def test_failures_and_answers_of_stand_ins_are_not_kept(
    question_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    provider.provider.settings.error_share = 1.0
    async with (
        running_provider() as other,
        running_runtime(
            question_model,
            provider.base,
            tmp_path,
            cache=CACHE,
            lm={"fallbacks": [{"model": "openai/other", "api_base": other.base}]},
        ) as runtime,
    ):
        assert (await ask(runtime))[::2] == (200, "miss")
        other.provider.settings.error_share = 1.0
        assert (await ask(runtime, {**ASKED, "limit": 9}))[::2] == (502, "miss")
        provider.provider.settings.error_share = 0.0
        assert (await ask(runtime))[::2] == (200, "miss")
        assert (await ask(runtime, {**ASKED, "limit": 9}))[::2] == (200, "miss")
        assert (await ask(runtime))[2] == "hit"


async def test_an_old_answer_is_given_when_nobody_answers_anew_as_the_failure_that_it_is(
    question_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    cache = {"ttl_seconds": 0.3, "stale_seconds": 60}
    async with running_runtime(question_model, provider.base, tmp_path, cache=cache) as runtime:
        good = (await ask(runtime))[1]
        await asyncio.sleep(0.4)  # it becomes old
        provider.provider.settings.error_share = 1.0
        status, body, headers = await runtime.predict(**ASKED)
        assert (status, body, headers["x-dspy-cache"]) == (200, good, "stale")
        assert (headers["x-dspy-outcome"], headers.get("x-dspy-flags")) == ("upstream_error", None)
        assert (await ask(runtime, {**ASKED, "limit": 9}))[0] == 502, "there is no old one"
        provider.provider.settings.error_share = 0.0
        assert (await ask(runtime))[2] == "miss"


async def test_an_answer_that_is_read_as_it_comes_is_kept_and_given_at_once(
    question_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    async with running_runtime(question_model, provider.base, tmp_path, cache=CACHE) as runtime:
        first, again = await listen(runtime.url, **ASKED), await listen(runtime.url, **ASKED)
        assert [name for name, _ in again.events] == ["prediction"], "it has no parts"
        assert first.events[-1] == again.events[-1]
        assert provider.provider.calls == 1


async def test_memory_holds_what_it_may(question_model: Path, provider: RunningProvider, tmp_path: Path) -> None:
    cache = CACHE | {"max_entries": 2}
    async with running_runtime(question_model, provider.base, tmp_path, cache=cache) as runtime:
        for limit in (1, 2, 3):
            await ask(runtime, {**ASKED, "limit": limit})
        assert [(await ask(runtime, {**ASKED, "limit": limit}))[2] for limit in (3, 2, 1)] == ["hit", "hit", "miss"]


async def test_pods_of_a_revision_share_what_they_answered(
    question_model: Path, provider: RunningProvider, redis: RunningRedis, tmp_path: Path
) -> None:
    shared = {"cache": CACHE, "redis": {"url": redis.url}, "program": "default/qa"}
    async with (
        running_runtime(question_model, provider.base, folder(tmp_path, "a"), revision="qa-1", **shared) as one,
        running_runtime(question_model, provider.base, folder(tmp_path, "b"), revision="qa-1", **shared) as two,
        running_runtime(question_model, provider.base, folder(tmp_path, "c"), revision="qa-2", **shared) as newer,
    ):
        assert [(await ask(pod))[2] for pod in (one, two, two, newer)] == ["miss", "hit", "hit", "miss"]
        assert await lookups(two, "redis", "hit") == 1, "then it is in its own memory"
        assert all(str(key).startswith("{dspy:default/qa}:cache:qa-") for key in await redis.client.keys())
        assert await forget(one) == 200
        assert (await ask(one))[2] == "miss"
        assert (await forget(two), (await ask(two))[2]) == (200, "miss")
        provider.provider.settings.latency_seconds = 0.5
        calls = provider.provider.calls
        pods = (one, two) * 20
        answers = await asyncio.gather(*(ask(pod, {**ASKED, "question": "at once?"}) for pod in pods))
        assert {status for status, _, _ in answers} == {200}
        assert provider.provider.calls == calls + 1, "made once over all pods"


async def test_a_redis_that_freezes_or_goes_holds_up_nobody(
    question_model: Path, provider: RunningProvider, redis: RunningRedis, tmp_path: Path
) -> None:
    shared = {"cache": CACHE, "redis": {"url": redis.url}, "revision": "qa-1"}
    async with running_runtime(question_model, provider.base, tmp_path, **shared) as runtime:
        assert (await ask(runtime))[2] == "miss"
        redis.freeze()
        assert (await ask(runtime))[2] == "hit", "in memory"
        for limit in range(10, 40):
            assert (await ask(runtime, {**ASKED, "limit": limit}))[::2] == (200, "miss")
        assert await lookups(runtime, "redis", "error") == 1, "one request waited for it, and nobody else"
        assert 'dspy_runtime_redis_up{revision="qa-1"} 0.0' in await runtime.get("/metrics")
        assert await forget(runtime) == 503
        redis.thaw()

        async def is_asked_again() -> bool:
            return 'dspy_runtime_redis_up{revision="qa-1"} 1.0' in await runtime.get("/metrics")

        await until(is_asked_again, "it is asked again", 20)
        assert (await ask(runtime, {**ASKED, "limit": 50}))[::2] == (200, "miss")
        await redis.kill()
        for limit in range(60, 70):
            assert (await ask(runtime, {**ASKED, "limit": limit}))[::2] == (200, "miss")


async def test_a_redis_that_is_full_or_wants_a_password(
    question_model: Path, provider: RunningProvider, tmp_path: Path
) -> None:
    password = tmp_path / "password"
    password.write_text("wrong\n")
    async with running_redis(tmp_path, "--maxmemory", "1mb", password="right") as redis:
        shared = {"cache": CACHE, "redis": {"url": redis.url, "password_file": str(password)}, "revision": "qa-1"}
        async with running_runtime(question_model, provider.base, tmp_path, **shared) as runtime:
            assert (await ask(runtime))[::2] == (200, "miss")
            password.write_text("right\n")

            async def is_asked() -> bool:
                return 'dspy_runtime_redis_up{revision="qa-1"} 1.0' in await runtime.get("/metrics")

            await until(is_asked, "the password is read again", 20)
            assert (await ask(runtime, {**ASKED, "limit": 2}))[::2] == (200, "miss")
            assert (await ask(runtime, {**ASKED, "limit": 2}))[::2] == (200, "hit")
            assert "right" not in runtime.log.read_text()
            assert await is_asked(), "a Redis that is full still answers"


async def test_what_somebody_else_wrote_there_is_no_answer(
    question_model: Path, provider: RunningProvider, redis: RunningRedis, tmp_path: Path
) -> None:
    shared = {"cache": CACHE | {"max_entries": 1}, "redis": {"url": redis.url}, "revision": "qa-1"}
    async with running_runtime(question_model, provider.base, tmp_path, **shared) as runtime:
        await ask(runtime)

        async def is_kept() -> bool:
            return len(await redis.client.keys("*cache:*")) == 1

        await until(is_kept, "it is in Redis", 10)
        (key,) = await redis.client.keys("*cache:*")

        async def is_good() -> bool:
            return str(await redis.client.get(key)).startswith('{"flags":[]')

        for content in (b"x", b"{}\n{}", b'{"flags":["a\\r\\nb"],"score":null,"begun_at":9e9}\n{}', b"\x80"):
            await until(is_good, "the last answer is written", 10)
            await redis.client.set(key, content)
            await ask(runtime, {**ASKED, "limit": 9})  # the first is no longer in memory
            assert (await ask(runtime))[::2] == (200, "miss")


async def test_clients_that_hang_up_leave_nothing_behind(
    question_model: Path, provider: RunningProvider, redis: RunningRedis, tmp_path: Path
) -> None:
    provider.provider.settings.latency_seconds = 5.0
    shared = {"cache": CACHE, "redis": {"url": redis.url}, "revision": "qa-1"}
    async with running_runtime(question_model, provider.base, tmp_path, **shared) as runtime:
        clients = [asyncio.ensure_future(ask(runtime)) for _ in range(20)]

        async def all_ask() -> bool:
            return await lookups(runtime, "memory", "miss") == 20 and provider.provider.in_flight == 1

        await until(all_ask, "one of them asks for all", 20)
        for client in clients:
            client.cancel()

        async def is_free() -> bool:
            page = await runtime.get("/metrics")
            ended = 'requests_total{outcome="cancelled",revision="qa-1"} 20.0' in page
            return ended and not await redis.client.keys("*claim:*")

        await until(is_free, "all have left, and nobody claims the answer", 20)
        assert provider.provider.in_flight == 0
        provider.provider.settings.latency_seconds = 0.0
        assert (await ask(runtime))[::2] == (200, "miss")
