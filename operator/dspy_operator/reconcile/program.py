"""What a key's work is: observe, plan, execute, and what each kind of error means. The only place that catches them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from prometheus_client import Counter, Histogram

from dspy_contract.logs import Logger
from dspy_kube.client import UNREACHABLE, ApiException, ConflictException, Kube
from dspy_operator.api.names import GATEWAY_NAME
from dspy_operator.api.program import Serving
from dspy_operator.domain.gateway import plan_gateway
from dspy_operator.domain.ledger import Ledger
from dspy_operator.domain.plan import RolloutStatus, needs_polling, plan
from dspy_operator.domain.recovery import recover_ledger
from dspy_operator.domain.snapshot import DesiredRevision, Problem, Snapshot
from dspy_operator.domain.status import orphan_status, refused_status
from dspy_operator.errors import InvalidSpecError, RetryError
from dspy_operator.gateway_poller import Poller
from dspy_operator.kube.execute import Executor, api_message
from dspy_operator.kube.observe import Observer, read_ports, read_program
from dspy_operator.kube.paths import path
from dspy_operator.resources import gateway as gateways
from dspy_operator.resources.gateway import GatewaySettings
from dspy_operator.settings import Settings
from dspy_operator.workqueue import Key

PASSES = Counter("dspy_operator_passes", "Passes by kind of key and result.", ["kind", "result"])
SECONDS = Histogram("dspy_operator_pass_seconds", "Duration of a pass.", ["kind"])
LONGEST_MESSAGE = 500
REFUSAL_SECONDS = 10.0
log = Logger(__name__)


class Controller:
    """Works on keys. Between passes it remembers only evidence that is newer than its checkpoint."""

    def __init__(
        self, kube: Kube, observer: Observer, poller: Poller, settings: Settings, clock: Callable[[], float] = time.time
    ) -> None:
        self._kube = kube
        self._observer = observer
        self._executor = Executor(kube)
        self._poller = poller
        self._settings = settings
        self._clock = clock
        self._known: dict[tuple[str, str], Ledger] = {}
        self._refusals: dict[tuple[str, str], _Refusal] = {}
        self.worked_at = clock()

    async def work(self, key: Key) -> float | None:
        """One pass; returns after how many seconds the key wants another. Raises RetryError to be tried again."""
        started = time.perf_counter()
        result = "done"
        try:
            delay = await (
                self._program(key.namespace, key.name) if key.kind == "program" else self._gateway(key.namespace)
            )
            self.worked_at = self._clock()
            return delay
        except ConflictException:
            result = "conflict"
            return 0.02
        except (ApiException, *UNREACHABLE) as error:
            result = "failed"
            log.warning("A pass failed and is tried again", key=str(key), error=_brief(error))
            raise RetryError from error
        except InvalidSpecError as error:
            result = "refused"
            log.error("A key cannot be carried out", key=str(key), reason=error.reason, error=error.message)
            return self._settings.registry_poll_seconds
        except Exception as error:
            result = "bug"
            log.exception("A pass failed unexpectedly", key=str(key))
            raise RetryError from error
        finally:
            PASSES.labels(key.kind, result).inc()
            SECONDS.labels(key.kind).observe(time.perf_counter() - started)

    async def _program(self, namespace: str, name: str) -> float | None:
        manifest = await self._observer.program(namespace, name)
        if manifest is None:
            self._known.pop((namespace, name), None)
            self._refusals.pop((namespace, name), None)
            self._poller.follow(namespace, name, wanted=False)
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
        self._poller.follow(program.namespace, program.name, wanted=watch)
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

    async def _gateway(self, namespace: str) -> float | None:
        found = await self._kube.request("GET", path("DSPyProgram", namespace))
        programs = {
            item["metadata"]["uid"]: item["metadata"]["name"]
            for item in found["items"]
            if not item["metadata"].get("deletionTimestamp")
        }
        known = await self._observer.get("ConfigMap", namespace, GATEWAY_NAME)
        decided = plan_gateway(programs, read_ports(known), self._clock())
        longest = max(
            (
                item["spec"].get("serving", {}).get("timeoutSeconds", Serving().timeout_seconds)
                for item in found["items"]
            ),
            default=0,
        )
        settings = GatewaySettings(
            self._settings.gateway_image, self._settings.gateway_replicas, gateways.grace_seconds(longest)
        )
        wanted = gateways.gateway(namespace, settings)
        if not decided.needed:
            for manifest in reversed(wanted):
                await self._executor.delete(manifest["kind"], namespace, GATEWAY_NAME)
            await self._executor.delete("ConfigMap", namespace, GATEWAY_NAME)
            return None
        if decided.table is not None:
            await self._executor.apply(gateways.port_table(namespace, decided.table), create=known is None)
        new = await self._observer.get("Deployment", namespace, GATEWAY_NAME) is None
        for manifest in wanted:
            await self._executor.apply(manifest, create=new)
        return decided.wake_after_seconds


@dataclass(frozen=True, slots=True)
class _Refusal:
    """What the API said of a revision's objects, and until when (Unix seconds) it is not asked again."""

    revision: str
    problem: Problem
    until: float


_PLACEHOLDER_SPEC = {"model": {"uri": ""}, "lm": {"model": ""}}
"""Stands for a spec that cannot be read, where only the status is written."""


def _brief(error: BaseException) -> str:
    return (
        f"{error.status} {api_message(error)}"[:LONGEST_MESSAGE]
        if isinstance(error, ApiException)
        else type(error).__name__
    )
