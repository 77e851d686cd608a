"""Asks Prometheus for the numbers by which releases are held, beside the passes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import aiohttp

from dspy_contract.logs import Logger
from dspy_operator.api.rollout import PrometheusQuery, Stream
from dspy_operator.domain.analysis.readings import Reading, filled, number_of, told
from dspy_operator.settings import PrometheusSettings, read_secret

ANSWER_SECONDS = 10.0
LARGEST_ANSWER_BYTES = 1 << 20

log = Logger(__name__)


@dataclass
class _Program:
    """The queries of one release that has traffic, and what they said last."""

    about: tuple[object, ...]
    readings: dict[str, Reading] = field(default_factory=dict)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class PrometheusQueries:
    """The queries of the releases whose candidates have traffic."""

    def __init__(self, servers: Mapping[str, PrometheusSettings], wake: Callable[[str, str], None]) -> None:
        """`wake` hears the namespace and name of a program of which something else is known."""
        self._servers = servers
        self._wake = wake
        self._programs: dict[tuple[str, str], _Program] = {}
        self._session: aiohttp.ClientSession | None = None

    def of(
        self, namespace: str, program: str, streams: tuple[Stream, ...], stable: str, candidate: str
    ) -> Mapping[str, Reading]:
        """What the streams of a program say, by their names; begins to ask, or asks about others."""
        asked = tuple(each for each in streams if each.prometheus and each.enabled)
        about, key = (asked, stable, candidate), (namespace, program)
        known = self._programs.get(key)
        if known is None or known.about != about:
            self.forget(namespace, program)
            if not asked:
                return {}
            known = self._programs[key] = _Program(about)
            names = {"namespace": namespace, "program": program, "stable": stable, "candidate": candidate}
            known.tasks = [
                asyncio.create_task(self._follow(key, known, each.name, each.prometheus, names))
                for each in asked
                if each.prometheus
            ]
        return dict(known.readings)

    def forget(self, namespace: str, program: str) -> None:
        """Asks no more about a program."""
        known = self._programs.pop((namespace, program), None)
        for task in known.tasks if known else ():
            task.cancel()

    async def close(self) -> None:
        """Ends every query."""
        for key in list(self._programs):
            self.forget(*key)
        if self._session is not None:
            await self._session.close()

    async def _follow(
        self, key: tuple[str, str], known: _Program, stream: str, query: PrometheusQuery, names: Mapping[str, str]
    ) -> None:
        while True:
            before = told(query, known.readings.get(stream, Reading()))
            try:
                reading = await self._read(query, names)
            except Exception:  # whatever a server answers, it must not end the query: an old number would stand
                log.exception("An answer of Prometheus could not be taken in", server=query.server)
                reading = Reading(problem="the answer of Prometheus cannot be read")
            known.readings[stream] = reading
            after = told(query, reading)
            if after.above != before.above or (after.above is None and after != before):
                self._wake(*key)
            await asyncio.sleep(query.every_seconds)

    async def _read(self, query: PrometheusQuery, names: Mapping[str, str]) -> Reading:
        server = self._servers.get(query.server)
        if server is None or not {names["namespace"], "*"} & set(server.namespaces):
            return Reading(problem=f"the operator has no Prometheus {query.server} for this namespace")
        try:
            candidate = await self._number(server, filled(query.query, {**names, "revision": names["candidate"]}))
            if query.tolerance_percent is None or isinstance(candidate, str):
                return Reading(problem=candidate) if isinstance(candidate, str) else Reading(candidate, problem="")
            stable = await self._number(server, filled(query.query, {**names, "revision": names["stable"]}))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:  # its words may hold the address
            return Reading(problem=f"Prometheus does not answer: {type(error).__name__}")
        except (ValueError, KeyError, IndexError, TypeError):
            return Reading(problem="Prometheus answers what is no answer of Prometheus")
        return Reading(problem=f"of stable: {stable}") if isinstance(stable, str) else Reading(candidate, stable, "")

    async def _number(self, server: PrometheusSettings, query: str) -> float | str:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS))
        headers = {}
        if server.token_file:
            headers["authorization"] = f"Bearer {read_secret(server.token_file)}"
        url = f"{server.url.rstrip('/')}/api/v1/query"
        async with self._session.post(url, data={"query": query}, headers=headers, allow_redirects=False) as response:
            if response.content_type != "application/json":
                return f"Prometheus answers {response.status}"
            content = b""
            async for some in response.content.iter_any():
                content += some
                if len(content) > LARGEST_ANSWER_BYTES:
                    return "the answer is too large: the query must have one series"
        return number_of(json.loads(content))
