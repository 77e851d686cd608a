"""One process that is the runtime of every pod, by the address that is asked, and clients who ask."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

import aiohttp
from aiohttp import web

from dspy_contract.outcomes import OUTCOME_HEADER, Outcome
from dspy_contract.routes import RUNTIME_PORT
from dspy_kube.client import Object
from dspy_operator.resources.runtime_pod import SETTINGS_ANNOTATION

LATENCY_SECONDS = 0.05
FAILURES_OF_GOOD, FAILURES_OF_BAD = 0.01, 0.5
HANG_SECONDS = 20.0
CLIENT_SECONDS = 25.0


class Kind(StrEnum):
    """How a revision behaves, as the name of its LM says: openai/good-17."""

    GOOD = "good"
    FAILS = "fails"
    HANGS = "hangs"


def model_of(kind: Kind, number: int) -> str:
    """The LM's name of a revision of that kind."""
    return f"openai/{kind}-{number}"


class Runtimes:
    """What a watch tells of pods, and the answers of those that are runtimes."""

    def __init__(self) -> None:
        self._kinds: dict[str, Kind] = {}
        """By address."""
        self._addresses: dict[str, str] = {}
        """By the pod's uid."""

    def put(self, item: Object, listed_at: str = "") -> None:
        """A pod is there; one that is being deleted answers nothing more."""
        address = item.get("status", {}).get("podIP")
        told = item["metadata"].get("annotations", {}).get(SETTINGS_ANNOTATION)
        if not address or not told:
            return
        if item["metadata"].get("deletionTimestamp"):
            self.forget(item)
            return
        name = json.loads(told)["lm"]["model"].partition("/")[2].partition("-")[0]
        self._kinds[address] = Kind(name) if name in set(Kind) else Kind.GOOD
        self._addresses[item["metadata"]["uid"]] = address

    def forget(self, item: Object) -> None:
        """A pod went. Its address may be another's by now."""
        self._kinds.pop(self._addresses.pop(item["metadata"]["uid"], ""), None)

    def retain(self, found: object, version: str) -> None:
        """Nothing: who is not there is asked by nobody."""

    async def serve(self) -> web.AppRunner:
        """Answers on the runtimes' port of every address."""
        app = web.Application()
        app.add_routes([web.post("/predict", self._predict)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "0.0.0.0", RUNTIME_PORT, backlog=1024).start()
        return runner

    async def _predict(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        kind = self._kinds.get(request.transport.get_extra_info("sockname")[0])
        if kind is None:
            request.transport.abort()
            raise web.HTTPServiceUnavailable
        await asyncio.sleep(HANG_SECONDS if kind is Kind.HANGS else random.expovariate(1 / LATENCY_SECONDS))
        failed = random.random() < (FAILURES_OF_BAD if kind is Kind.FAILS else FAILURES_OF_GOOD)
        outcome = Outcome.PROGRAM_ERROR if failed else Outcome.OK
        return web.json_response({}, status=500 if failed else 200, headers={OUTCOME_HEADER: outcome})


@dataclass
class Clients:
    """Who asks programs, and what became of it, by status; 0 where no answer came."""

    session: aiohttp.ClientSession
    answers: Counter[int]

    async def ask(self, url: str) -> None:
        """One request."""
        try:
            timeout = aiohttp.ClientTimeout(total=CLIENT_SECONDS)
            async with self.session.post(url, json={}, timeout=timeout) as response:
                await response.read()
                self.answers[response.status] += 1
        except (aiohttp.ClientError, TimeoutError, OSError):
            self.answers[0] += 1
