"""A Redis that the pods of a program share: asked for nothing that a request cannot do without.

A Redis that does not answer costs the requests that are asking it at that moment `PATIENCE_SECONDS`, and the others
nothing: until it has answered a ping in the background, nobody asks it. It is asked on the loop of the requests only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import RedisError, ResponseError

from dspy_contract.logs import Logger
from dspy_runtime.settings import RedisSettings

T = TypeVar("T")
PATIENCE_SECONDS = 0.1
PING_SECONDS = 1.0
CONNECTIONS = 32

_UNREACHABLE = (RedisError, OSError, TimeoutError)

log = Logger(__name__)


class RedisStore:
    """See SharedStore."""

    def __init__(self, settings: RedisSettings, program: str) -> None:
        """`program` is whose keys they are. A cluster of Redis has all of them in one place."""
        self._prefix = f"{{dspy:{program}}}:"
        self._client = aioredis.Redis(
            connection_pool=aioredis.BlockingConnectionPool.from_url(
                settings.url,
                max_connections=CONNECTIONS,
                timeout=PATIENCE_SECONDS,
                socket_timeout=PATIENCE_SECONDS,
                socket_connect_timeout=PATIENCE_SECONDS,
                retry=Retry(NoBackoff(), 0),
                credential_provider=_Password(settings) if settings.password_file else None,
            )
        )
        self.is_up = True
        """Whether it is asked."""
        self._refusals: set[str] = set()
        self._asking: set[asyncio.Task[Any]] = set()

    async def read(self, *keys: str) -> list[bytes | None] | None:
        """The values of keys."""

        async def read() -> list[bytes | None]:
            # Strings only where the client is told to decode, which it is not.
            return cast("list[bytes | None]", await self._client.mget([self._prefix + key for key in keys]))

        return await self._asked(read)

    async def write(self, key: str, value: bytes, seconds: float) -> None:
        """Keeps a value."""
        await self._asked(lambda: self._client.set(self._prefix + key, value, px=_milliseconds(seconds)))

    async def claim(self, key: str, seconds: float) -> bool | None:
        """Whether nobody else has claimed the key, who has neither dropped it since nor had it for its seconds."""

        async def claimed() -> bool:
            return bool(await self._client.set(self._prefix + key, b"1", px=_milliseconds(seconds), nx=True))

        if not self.is_up:
            return None
        claiming = self._begin(claimed)
        try:
            await asyncio.wait([claiming])
        except asyncio.CancelledError:
            claiming.add_done_callback(lambda claiming: self._take_back(key, claiming))
            raise
        return claiming.result()

    def _take_back(self, key: str, claiming: asyncio.Task[bool | None]) -> None:
        """Nobody uses this claim, if it is one."""
        if claiming.result():
            self._begin(lambda: self._client.delete(self._prefix + key))

    async def drop(self, key: str) -> None:
        """Forgets a value."""
        await self._asked(lambda: self._client.delete(self._prefix + key))

    async def tally(self, key: str, pod: str, amount: int, seconds: float) -> int | None:
        """The sum of what all pods have said last below a key: this one says `amount`."""

        async def told() -> int:
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.hset(self._prefix + key, pod, str(amount))
                pipe.pexpire(self._prefix + key, _milliseconds(seconds))
                pipe.hvals(self._prefix + key)
                return sum(map(int, (await pipe.execute())[2]))

        return await self._asked(told)

    async def watch(self) -> None:
        """Asks again, for ever, whether one that did not answer does."""
        while True:
            await asyncio.sleep(PING_SECONDS)
            if not self.is_up:
                await self._ping()

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def _ping(self) -> None:
        try:
            await self._client.ping()
        except _UNREACHABLE:
            return
        self.is_up = True
        log.info("Redis answers again")

    async def _asked(self, ask: Callable[[], Awaitable[T]]) -> T | None:
        if not self.is_up:
            return None
        asking = self._begin(ask)
        await asyncio.wait([asking])
        return asking.result()

    def _begin(self, ask: Callable[[], Awaitable[T]]) -> asyncio.Task[T | None]:
        """Asks in a task of its own: a request that ends meanwhile breaks no connection off. And `asyncio.wait_for` of
        Python 3.11, which the client calls, loses the end of a request that comes together with Redis' answer."""
        asking = asyncio.get_running_loop().create_task(self._tried(ask))
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)
        return asking

    async def _tried(self, ask: Callable[[], Awaitable[T]]) -> T | None:
        try:
            return await ask()
        except ResponseError as error:  # it is full, or read only, or lets this user do less: it may do all else
            self._refused(type(error).__name__)
        except _UNREACHABLE as error:
            if self.is_up:
                self.is_up = False
                log.warning("Redis does not answer, and is not asked until it does", error=type(error).__name__)
        return None

    def _refused(self, error: str) -> None:
        if error not in self._refusals:
            self._refusals.add(error)
            log.warning("Redis refuses a command", error=error)


class _Password(CredentialProvider):
    """The password as its file has it when a connection opens."""

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        assert self._settings.password_file is not None
        password = Path(self._settings.password_file).read_text(errors="replace").strip()
        return (self._settings.username, password) if self._settings.username else (password,)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
