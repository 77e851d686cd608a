"""Sends the requests of smoke tests to the previews of candidates, beside the passes."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec

from dspy_contract.logs import Logger
from dspy_operator.api.rollout import SmokeRequest
from dspy_operator.domain.ledger import Release
from dspy_operator.domain.smoke import Failed, Unknown, Verdict, named, verdict
from dspy_operator.domain.snapshot import SmokeReport
from dspy_operator.domain.steps import SmokeTest
from dspy_operator.preview_client import Previews, PreviewUnheardError

log = Logger(__name__)

SENT_AT_ONCE = 4
"""In one namespace: nobody's tests wait for another tenant's candidates that hang."""
AGAIN_SECONDS, LONGEST_AGAIN_SECONDS = 1.0, 30.0
"""A request whose answer says nothing of the candidate is sent again after so long: twice as long each time."""

MOST_TOLD = 3
"""Failures whose words are told."""


@dataclass
class _Test:
    """A smoke test that is being carried out. `gateways` are the addresses as the last pass knew them; nothing is sent
    while it may not go on."""

    report: SmokeReport
    port: int
    gateways: Sequence[str]
    may_go_on: asyncio.Event
    task: asyncio.Task[None] | None = None


class SmokeTests:
    """The smoke tests of the releases whose step at hand is one."""

    def __init__(self, previews: Previews, wake: Callable[[str, str], None]) -> None:
        """`wake` hears the namespace and name of a program whose smoke test has something to tell."""
        self._previews = previews
        self._wake = wake
        self._tests: dict[tuple[str, str], _Test] = {}
        self._places: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(SENT_AT_ONCE))
        """By namespace."""

    def of(
        self,
        namespace: str,
        program: str,
        at_hand: tuple[Release, SmokeTest] | None,
        blocked: bool,
        port: int,
        gateways: Sequence[str],
    ) -> SmokeReport | None:
        """How far the test of a program is: of the step at hand, if that is one. While something blocks the release
        nothing is sent, and what was found stays."""
        key, running = (namespace, program), self._tests.get((namespace, program))
        if at_hand is None:
            self.forget(namespace, program)
            return None
        release, step = at_hand
        if running is None or (running.report.release, running.report.step) != (release.id, release.step):
            self.forget(namespace, program)
            running = self._tests[key] = _Test(SmokeReport(release.id, release.step), port, gateways, asyncio.Event())
            running.task = asyncio.create_task(self._run(key, running, release.candidate, step))
        running.port, running.gateways = port, gateways
        (running.may_go_on.clear if blocked else running.may_go_on.set)()
        return running.report

    def forget(self, namespace: str, program: str) -> None:
        """Ends the test of a program, if there is one."""
        test = self._tests.pop((namespace, program), None)
        if test is not None and test.task is not None:
            test.task.cancel()

    def close(self) -> None:
        """Ends every test."""
        for key in list(self._tests):
            self.forget(*key)

    async def _run(self, key: tuple[str, str], test: _Test, candidate: str, step: SmokeTest) -> None:
        """One request after the other: a candidate that cannot answer one is not loaded with all."""
        failures: list[str] = []
        requests = step.requests
        for number, request in enumerate(requests, 1):
            name = named(request, number)
            failed = await self._send(key, test, name, request, candidate, step.timeout_seconds)
            failures += [f"{name}: {failed}"] if failed else []
            done = len(failures) > step.max_failures or number == len(requests)
            words = f"{number - len(failures)} of {number} requests were answered as expected"
            words = "; ".join([words, *failures[:MOST_TOLD]])
            test.report = replace(test.report, words=words, failures=len(failures) if done else None)
            self._wake(*key)
            if done:
                return

    async def _send(
        self, key: tuple[str, str], test: _Test, name: str, request: SmokeRequest, candidate: str, seconds: float
    ) -> str:
        """Why a request failed; empty when it did not."""
        body, tries, pause = msgspec.json.encode(request.input), 0, AGAIN_SECONDS
        while True:
            await test.may_go_on.wait()
            async with self._places[key[0]]:
                found = await self._try(test, tries, request, body, candidate, seconds)
            if not isinstance(found, Unknown):
                return found.words if isinstance(found, Failed) else ""
            words = f"{name} is sent again: {found.words}"
            if words != test.report.words:
                test.report = replace(test.report, words=words)
                self._wake(*key)
            await asyncio.sleep(pause)
            tries, pause = tries + 1, min(pause * 2, LONGEST_AGAIN_SECONDS)

    async def _try(
        self, test: _Test, tries: int, request: SmokeRequest, body: bytes, candidate: str, seconds: float
    ) -> Verdict:
        if not test.gateways:
            return Unknown("no gateway pod is ready")
        address = test.gateways[tries % len(test.gateways)]
        try:
            answer = await self._previews.predict(address, test.port, body, seconds)
        except PreviewUnheardError as error:
            return Unknown(str(error))
        except TimeoutError:
            return Failed(f"no answer within {seconds:g} s")
        try:
            return verdict(request, answer, candidate)
        except Exception:  # whatever an answer is, the release hears of it
            log.exception("An answer to a smoke test could not be checked", revision=candidate)
            return Failed("the answer cannot be checked")
