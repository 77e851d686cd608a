"""A pass over a program: observe, plan, execute."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from dspy_contract.logs import Logger
from dspy_operator.domain.ledger import Ledger
from dspy_operator.domain.plan import RolloutStatus, needs_polling, plan
from dspy_operator.domain.recovery import recover_ledger
from dspy_operator.domain.snapshot import DesiredRevision, Problem, Snapshot
from dspy_operator.domain.status import orphan_status, refused_status
from dspy_operator.errors import InvalidSpecError
from dspy_operator.gateway_poller import Poller
from dspy_operator.kube.execute import Executor
from dspy_operator.kube.observe import Observer, read_program
from dspy_operator.settings import Settings

REFUSAL_SECONDS = 10.0
log = Logger(__name__)


class ProgramReconciler:
    """Works on `program/<namespace>/<name>`. Between passes it remembers only evidence that is newer than its
    checkpoint."""

    def __init__(
        self,
        observer: Observer,
        executor: Executor,
        poller: Poller,
        settings: Settings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._observer = observer
        self._executor = executor
        self._poller = poller
        self._settings = settings
        self._clock = clock
        self._known: dict[tuple[str, str], Ledger] = {}
        self._refusals: dict[tuple[str, str], _Refusal] = {}

    async def work(self, namespace: str, name: str) -> float | None:
        """One pass; returns after how many seconds the program wants another."""
        manifest = await self._observer.program(namespace, name)
        if manifest is None:
            self._known.pop((namespace, name), None)
            self._refusals.pop((namespace, name), None)
            self._poller.follow(namespace, name, None)
            await self._orphans(namespace, name)
            return None
        try:
            snapshot = await self._observer.snapshot(manifest, self._known.get((namespace, name)))
        except InvalidSpecError as error:
            await self._refuse(Snapshot(read_program({**manifest, "spec": _PLACEHOLDER_SPEC}, None)), error)
            return self._settings.resync_seconds
        return await self._decide(self._with_refusal(snapshot))

    def _with_refusal(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot with what the API said a moment ago of the revision that is wanted, so that it is not asked on
        and on."""
        refusal = self._refusals.get((snapshot.program.namespace, snapshot.program.name))
        desired = snapshot.desired
        if refusal is None or not isinstance(desired, DesiredRevision) or desired.revision.name != refusal.revision:
            return snapshot
        return replace(snapshot, desired=refusal.problem) if self._clock() < refusal.until else snapshot

    async def _decide(self, snapshot: Snapshot) -> float:
        program, now = snapshot.program, self._clock()
        decided = plan(snapshot, now)
        watch = needs_polling(decided.ledger) or (snapshot.service_port is None and decided.ledger.stable is not None)
        self._poller.follow(program.namespace, program.name, program.uid if watch else None)
        try:
            await self._executor.execute(program, decided, now)
        except InvalidSpecError as error:
            if not isinstance(snapshot.desired, DesiredRevision):
                raise
            problem = Problem(error.reason, error.message)
            known = _Refusal(snapshot.desired.revision.name, problem, now + REFUSAL_SECONDS)
            self._refusals[program.namespace, program.name] = known
            return 0.0
        self._known[program.namespace, program.name] = decided.ledger
        poll = self._settings.registry_poll_seconds
        return min(poll, decided.wake_after_seconds) if decided.wake_after_seconds is not None else poll

    async def _refuse(self, snapshot: Snapshot, error: InvalidSpecError) -> None:
        """Says on the program why its spec cannot be carried out; what serves goes on."""
        found = await self._observer.program(snapshot.program.namespace, snapshot.program.name)
        if found is None:
            return
        fresh = read_program({**found, "spec": _PLACEHOLDER_SPEC}, None)
        ledger = fresh.ledger or recover_ledger(snapshot, self._clock())
        content = refused_status(Snapshot(fresh), ledger, Problem(error.reason, error.message), self._clock())
        if content is not None:
            await self._executor.write_status(fresh, content)

    async def _orphans(self, namespace: str, program: str) -> None:
        """Tells the rollouts of a program that is not there."""
        for policy in await self._observer.policies(namespace, program):
            content = orphan_status(policy, self._clock())
            if content is not None:
                await self._executor.write_rollout(
                    namespace, RolloutStatus(policy.name, policy.resource_version, policy.status, content)
                )


@dataclass(frozen=True, slots=True)
class _Refusal:
    """What the API said of a revision's objects, and until when (Unix seconds) it is not asked again."""

    revision: str
    problem: Problem
    until: float


_PLACEHOLDER_SPEC = {"model": {"uri": ""}, "lm": {"model": ""}}
"""Stands for a spec that cannot be read, where only the status is written."""
