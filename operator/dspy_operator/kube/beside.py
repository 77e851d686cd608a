"""What is asked and tried beside the passes, and what of it a snapshot needs: nothing here holds up a pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from dspy_contract.routes import REVISION_LABEL
from dspy_kube.objects import is_ready
from dspy_kube.store import Store
from dspy_operator.descriptions import Descriptions
from dspy_operator.domain.analysis.readings import Reading
from dspy_operator.domain.ledger import Ledger
from dspy_operator.domain.release.blocking import blocking_reason
from dspy_operator.domain.release.smoke import smoke_test_at_hand
from dspy_operator.domain.snapshot import Description, Program, Revision, SmokeReport, Snapshot
from dspy_operator.domain.status import described, has_forgotten
from dspy_operator.forgetting import Forgetting
from dspy_operator.prometheus_queries import PrometheusQueries
from dspy_operator.smoke_tests import SmokeTests
from dspy_operator.standstills import Standstills


@dataclass(frozen=True, slots=True)
class Beside:
    """Pods' descriptions and standstills, answers that are to be forgotten, smoke tests, queries of Prometheus."""

    store: Store
    descriptions: Descriptions
    standstills: Standstills
    forgetting: Forgetting
    smoke_tests: SmokeTests
    queries: PrometheusQueries

    def learnt(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot with what is known of these; what is not known yet is asked for."""
        program, addresses = snapshot.program, self._addresses(snapshot.program)
        snapshot = replace(
            snapshot,
            description=self._description(snapshot, addresses),
            standstills=self.standstills.of(program.namespace, program.name, addresses),
            forgotten=self._forgotten(snapshot),
            readings=self._readings(program),
        )
        return replace(snapshot, smoke_test=self._smoke_test(snapshot))

    def told(self, snapshot: Snapshot) -> None:
        """What was heard once has been told."""
        self.standstills.told(snapshot.program.namespace, snapshot.program.name, snapshot.standstills)

    def forget(self, namespace: str, name: str) -> None:
        """Forgets a program that is gone."""
        for each in (self.descriptions, self.standstills, self.forgetting, self.smoke_tests, self.queries):
            each.forget(namespace, name)

    async def close(self) -> None:
        """Ends everything."""
        for each in (self.descriptions, self.standstills, self.forgetting, self.smoke_tests):
            each.close()
        await self.queries.close()

    def _readings(self, program: Program) -> Mapping[str, Reading]:
        """What Prometheus says of a candidate that has traffic."""
        ledger = program.ledger or Ledger()
        release = ledger.release if ledger.release and ledger.release.backend.weight else None
        streams, candidate = (release.streams, release.candidate) if release else ((), "")
        return self.queries.of(program.namespace, program.name, streams, str(ledger.stable), candidate)

    def _smoke_test(self, snapshot: Snapshot) -> SmokeReport | None:
        """How far the smoke test of the step at hand is."""
        program, port = snapshot.program, snapshot.preview.port
        at_hand = smoke_test_at_hand(program.ledger)
        if at_hand and port is None:
            self.smoke_tests.forget(program.namespace, program.name)
            return SmokeReport(at_hand[0].id, at_hand[0].step, "the gateway has no port for the preview yet")
        pods = self.store.list("Pod", program.namespace, "")
        carrying = (pod for pod in pods if pod["metadata"]["name"] in snapshot.gateway.pods)
        gateways = [pod["status"]["podIP"] for pod in carrying if is_ready(pod) and pod["status"].get("podIP")]
        blocked = program.ledger is not None and blocking_reason(program.ledger, snapshot) is not None
        return self.smoke_tests.of(program.namespace, program.name, at_hand, blocked, port or 0, gateways)

    def _forgotten(self, snapshot: Snapshot) -> str:
        """The wish that answers be forgotten, once it is carried out, until the status tells."""
        program = snapshot.program
        if program.forget in ("", has_forgotten(program.status)):
            self.forgetting.forget(program.namespace, program.name)
            return ""
        pods = [address for revision, address in self._ready(program) if _keeps(snapshot.revisions.get(revision))]
        if snapshot.cached and not pods:
            return ""  # what pods share is there, and nobody who could forget it
        is_done = self.forgetting.of(program.namespace, program.name, program.forget, pods)
        return program.forget if is_done else ""

    def _addresses(self, program: Program) -> dict[str, str]:
        """Of one Ready pod of each revision."""
        return dict(self._ready(program))

    def _ready(self, program: Program) -> list[tuple[str, str]]:
        """The revision and the address of each Ready pod."""
        pods = self.store.list("Pod", program.namespace, program.name)
        ready = (pod for pod in pods if is_ready(pod) and pod["status"].get("podIP"))
        return [(pod["metadata"]["labels"].get(REVISION_LABEL, ""), pod["status"]["podIP"]) for pod in ready]

    def _description(self, snapshot: Snapshot, addresses: Mapping[str, str]) -> Description | None:
        """Of the revision that the spec asks for, as soon as a pod of it is Ready, if its status does not tell yet."""
        program, desired = snapshot.program, snapshot.desired_revision
        if desired is None:
            return None
        if described(program.status) == desired.name:
            self.descriptions.forget(program.namespace, program.name)
            return None
        address = addresses.get(desired.name)
        return self.descriptions.of(program.namespace, program.name, desired.name, address) if address else None


def _keeps(revision: Revision | None) -> bool:
    return revision is not None and revision.cached
