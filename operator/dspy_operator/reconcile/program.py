"""A pass over a program: observe, plan, execute."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from dspy_contract.logs import Logger
from dspy_kube.client import UNREACHABLE, ApiException, ConflictException
from dspy_operator.api.reasons import Reason
from dspy_operator.domain.ledger import Ledger, with_evidence_of
from dspy_operator.domain.plan import RolloutStatus, needs_polling, plan, starts_release
from dspy_operator.domain.readiness import routes_acked
from dspy_operator.domain.release.in_force import analysis_of
from dspy_operator.domain.release.progress import WAITING_SECONDS
from dspy_operator.domain.snapshot import DesiredRevision, Problem, Program, Revision, Snapshot
from dspy_operator.domain.status import held_status, orphan_status
from dspy_operator.domain.write_back import wishes
from dspy_operator.errors import InvalidSpecError, RetryError
from dspy_operator.gateway_poller import Poller
from dspy_operator.kube.beside import Beside
from dspy_operator.kube.execute import Executor
from dspy_operator.kube.name_conflicts import NameConflicts
from dspy_operator.kube.observe import Observer, read_program, stored_kept
from dspy_operator.notifier import Notifier
from dspy_operator.reconcile.memory import Memories, Memory, Shown
from dspy_operator.write_backs import WriteBacks

REFUSAL_SECONDS = 10.0
LIST_SECONDS = 2.0
"""What does not wait for the rollouts, such as an abort, waits this long for their listing."""

log = Logger(__name__)


class ProgramReconciler:
    """Works on `program/<namespace>/<name>`."""

    def __init__(
        self,
        observer: Observer,
        executor: Executor,
        conflicts: NameConflicts,
        poller: Poller,
        beside: Beside,
        notifier: Notifier,
        write_backs: WriteBacks,
        memories: Memories,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._observer = observer
        self._executor = executor
        self._conflicts = conflicts
        self._poller = poller
        self._beside = beside
        self._notifier = notifier
        self._write_backs = write_backs
        self._clock = clock
        self._memories = memories
        self._moving: set[tuple[str, str]] = set()

    async def work(self, namespace: str, name: str) -> float | None:
        """One pass; returns after how many seconds the program wants another."""
        manifest = self._observer.program(namespace, name)
        if manifest is None:
            self._memories.forget(namespace, name)
            self._moving.discard((namespace, name))
            self._conflicts.forget(namespace, name)
            self._observer.leave(namespace, name)
            self._beside.forget(namespace, name)
            self._poller.follow(namespace, name, None)
            await self._orphans(namespace, name)
            return None
        try:
            latest = self._memories.of(namespace, name).ledger
            snapshot = await self._observer.snapshot(manifest, latest, len(self._moving), self._clock())
        except InvalidSpecError as error:
            self._observer.leave(namespace, name)
            await self._hold(read_program({**manifest, "spec": _PLACEHOLDER_SPEC}, None), error)
            return None
        return await self._decide(snapshot, latest)

    async def _decide(self, snapshot: Snapshot, latest: Ledger | None) -> float | None:
        """Plans and executes; only then shows a new revision to the API, so that its answer holds up nothing.

        `latest` is what was remembered when the snapshot was taken.
        """
        program, now = snapshot.program, self._clock()
        memory = self._memories.of(program.namespace, program.name)
        decided = plan(self._shown_to_api(snapshot), now)
        desired = snapshot.desired_revision
        governed = desired is not None and not decided.ledger.undoes(desired.name)  # an undo asks no policy
        if (
            desired
            and governed
            and starts_release(program.ledger, decided.ledger)
            and memory.policy_known_for != desired.name
        ):
            # Programs and rollouts are heard of apart: one that is applied with its policy must not start without it.
            try:
                async with asyncio.timeout(LIST_SECONDS):
                    await self._executor.list_rollouts(program.namespace)
            except (ApiException, *UNREACHABLE) as error:
                shown = memory.shown
                unknown = Problem(Reason.RESOLVING, f"The rollouts cannot be listed: {type(error).__name__}")
                await self._decide(replace(snapshot, asked=unknown), latest)
                memory.shown = shown
                raise RetryError(str(error), WAITING_SECONDS) from error
            memory.policy_known_for = desired.name
            return 0.0
        if program.ledger and program.ledger.release is None and not starts_release(program.ledger, decided.ledger):
            memory.policy_known_for = ""
        moves = needs_polling(decided.ledger)
        (self._moving.add if moves else self._moving.discard)((program.namespace, program.name))
        watched = moves or self._is_unsettled(snapshot, decided.ledger)
        self._poller.follow(program.namespace, program.name, program.uid if watched else None)
        if decided.status is not None:
            await self._executor.write_status(program, decided.status)
        # What is written is what the guard goes by, whatever becomes of the rest of the plan.
        meanwhile = memory.ledger if memory.ledger is not latest else None
        memory.ledger = with_evidence_of(decided.ledger, meanwhile) if meanwhile else decided.ledger
        if decided.ledger.release:
            memory.analysis = analysis_of(decided.ledger.release, snapshot)
        if program.ledger and program.ledger.release:
            memory.kept = stored_kept(program.status)
        self._notifier.tell(program, snapshot.policy, decided.events, now)
        self._write_backs.want(program, wishes(program.ledger, decided.ledger, snapshot))
        failure: Exception | None = None
        try:
            await self._executor.execute(program, decided, now)
            self._beside.told(snapshot)
        except ConflictException:
            raise
        except (ApiException, RetryError, *UNREACHABLE) as error:
            failure = error
        if await self._show(snapshot):
            return 0.0
        if failure is not None:
            # A new revision is shown to the API, and the release's clocks go on, whatever one action meets.
            raise RetryError(str(failure), WAITING_SECONDS if moves else None) from failure
        conflicts = self._conflicts.due_seconds(program.namespace, program.name)
        again = [shown.asked_again_after() for shown in memory.shown.values()]
        return min((wait for wait in (decided.wake_after_seconds, conflicts, *again) if wait is not None), default=None)

    def _memory(self, snapshot: Snapshot) -> Memory:
        return self._memories.of(snapshot.program.namespace, snapshot.program.name)

    def _is_unsettled(self, snapshot: Snapshot, ledger: Ledger) -> bool:
        """True until the gateways have been seen to obey the routes that stand, and the Service leads to their port.

        Once is enough: a restored cluster is found by whoever starts after it.
        """
        if ledger.stable is None:
            return False
        memory, routes = self._memory(snapshot), snapshot.routes
        if routes is not None and routes_acked(snapshot, ledger.serial, 0.0):
            memory.confirmed = (routes.serial, routes.content)
        obeyed = routes is not None and memory.confirmed == (routes.serial, routes.content)
        return not obeyed or snapshot.service_port is None or snapshot.service_port != snapshot.gateway.port

    def _shown_to_api(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot with what the API said of revisions that are asked for and not created yet."""
        memory = self._memory(snapshot)

        def said(asked: DesiredRevision | Problem) -> DesiredRevision | Problem:
            if isinstance(asked, Problem) or asked.revision.name in snapshot.revisions:
                return asked
            shown = memory.shown.get(asked.revision.name)
            if shown is None:
                return Problem(Reason.RESOLVING, "The API server is asked whether it takes the pods")
            return shown.problem or asked

        asked = snapshot.asked if snapshot.pin or snapshot.asked is None else said(snapshot.asked)
        return replace(snapshot, asked=asked, variants={name: said(each) for name, each in snapshot.variants.items()})

    async def _show(self, snapshot: Snapshot) -> bool:
        """Shows new revisions' pods to the API, unless it answered a moment ago. True when another pass should
        follow."""
        asked = [each for each in (snapshot.desired, *snapshot.variants.values()) if isinstance(each, DesiredRevision)]
        new = {each.revision.name: each.revision for each in asked if each.revision.name not in snapshot.revisions}
        memory, now = self._memory(snapshot), asyncio.get_running_loop().time()
        before = memory.shown
        memory.shown = {name: shown for name, shown in before.items() if name in new}
        for name, revision in new.items():
            shown = before.get(name)
            if shown is None or (shown.problem is not None and now >= shown.until):
                answer = Shown(await self._refusal(snapshot, revision), now + REFUSAL_SECONDS)
                memory.shown = {**memory.shown, name: answer}
        return any(name not in before or before[name].problem != each.problem for name, each in memory.shown.items())

    async def _refusal(self, snapshot: Snapshot, revision: Revision) -> Problem | None:
        """Why the API does not take a revision's pods, or the program's Service."""
        try:
            if snapshot.service_port is None:
                await self._executor.dry_run_service(snapshot.program)
            await self._executor.dry_run(revision.deployment)
        except InvalidSpecError as error:
            return Problem(error.reason, error.message)
        return None

    async def _hold(self, program: Program, error: InvalidSpecError) -> None:
        """Says on the program why its spec cannot be read; what serves goes on, and the guard stays on."""
        content = held_status(program, Problem(error.reason, error.message), self._clock())
        if content is not None:
            await self._executor.write_status(program, content)

    async def _orphans(self, namespace: str, program: str) -> None:
        """Tells the rollouts of a program that is not there."""
        for policy in self._observer.policies(namespace, program):
            content = orphan_status(policy, self._clock())
            if content is not None:
                await self._executor.write_rollout(
                    namespace, RolloutStatus(policy.name, policy.resource_version, policy.status, content)
                )


_PLACEHOLDER_SPEC = {"model": {"uri": ""}, "lm": {"model": ""}}
"""Stands for a spec that cannot be read, where only the status is written."""
