"""What one pass saw of the world, frozen: the input of the plan. Absent is a value of its own, never zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dspy_contract.routes import Pin, Routes, preview_of
from dspy_contract.state import GatewayState
from dspy_operator.api.program import ProgramSpec
from dspy_operator.api.reasons import Reason
from dspy_operator.api.rollout import Policy
from dspy_operator.domain.analysis.readings import Reading
from dspy_operator.domain.analysis.users import UserTotals
from dspy_operator.domain.ledger import Ledger

Manifest = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why something is not as it should be: a CamelCase reason and a sentence."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Program:
    """The DSPyProgram itself. `ledger` is None when its status is lost or was never written."""

    namespace: str
    name: str
    uid: str
    generation: int
    resource_version: str
    spec: ProgramSpec
    request: str
    status: Mapping[str, Any]
    ledger: Ledger | None
    lost: str = ""
    """Why the ledger that is stored cannot be carried on; it is found again from the routes then."""
    forget: str = ""
    """The annotation by which a person asks that answers that are kept be forgotten; done once for each value."""
    newer_version: int | None = None
    """The version of a ledger that a newer operator wrote: never written over."""


@dataclass(frozen=True, slots=True)
class Version:
    """What a model uri resolved to. `digest` covers every file; `python` is a minor such as 3.11.

    `archive_bytes` is the size of its files when packed; 0 for those that are too large to be kept in the cluster.
    `missing` are its requirements that the runtime's image does not hold.
    """

    uri: str
    number: str
    model_id: str
    digest: str
    python: str
    dspy: str
    archive_bytes: int = 0
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Revision:
    """A ControllerRevision: an immutable version with its settings, and the manifests that serve it."""

    name: str
    created: str
    model_uri: str
    version: str
    lm: str
    timeout_seconds: int
    deployment: Manifest
    service: Manifest
    model_id: str = ""
    digest: str = ""
    registry: str = ""
    python: str = ""
    dspy: str = ""
    refreshed: int = 0
    """How often a person had asked to make it anew when it was made."""
    first_name: str = ""
    """Its name as nobody had asked yet."""
    archive_bytes: int = 0
    """Of its archive, which is a Secret; 0 when its pods download the files."""
    cached: bool = False
    """Whether it gives answers again."""


@dataclass(frozen=True, slots=True)
class DesiredRevision:
    """The revision that the spec asks for. `manifest` is its ControllerRevision, to be created if it is not there."""

    revision: Revision
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Workload:
    """A revision's Deployment and pods as they are now."""

    replicas: int
    ready: int
    crashed: frozenset[str] = frozenset()
    """Pods whose container has ended by itself: with an exit code that is not 0, or out of memory."""
    fatal: Problem | None = None
    """A reason that cannot heal: the model does not load, the version is gone."""
    problem: Problem | None = None
    """A reason that can heal: an image that is not pulled, a pod that is not scheduled, a missing Secret."""
    uid: str = ""
    service_uid: str | None = ""
    """Of its headless Service; None while there is none."""
    changed: Mapping[str, str] = field(default_factory=dict)
    """By kind (Deployment, Service), the first field that somebody changed."""
    has_budget: bool = True
    """It has a PodDisruptionBudget."""
    archive_missing: bool = False
    """A pod waits for the Secret with the revision's files."""
    promoted_at: float | None = None
    """When the revision became stable, as its Deployment remembers it (Unix seconds)."""


@dataclass(frozen=True, slots=True)
class Standstill:
    """All requests of a pod of the revision were held up: for how long at least, how long ago that was seen, and the
    line of the program that did it; empty where none did."""

    revision: str
    seconds: float
    age_seconds: float
    place: str


@dataclass(frozen=True, slots=True)
class Description:
    """What a revision says of itself: the saved settings of DSPy that are not in force, and the parameters whose types
    are not known where it serves."""

    revision: str
    dropped_settings: tuple[str, ...] = ()
    underivable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Gateway:
    """The namespace's gateway. `port` is the program's; `states` holds the pods that answered a poll."""

    port: int | None = None
    pods: frozenset[str] = frozenset()
    """Pods that are Ready or Terminating: those that carry traffic."""
    states: Mapping[str, GatewayState] = field(default_factory=dict)
    unseen: frozenset[str] = frozenset()
    """Pods that carry traffic and whose counts are too old for a candidate to have any."""
    users: Mapping[str, UserTotals] = field(default_factory=dict)
    """What the users of the release that moves met, where users are drawn: those of each candidate, and of stable."""
    problem: Problem | None = None
    """Why the program gets no gateway, as the gateway's own pass found."""


@dataclass(frozen=True, slots=True)
class Preview:
    """The program's preview as it is now. `port` is None where it should have none; the rest is as the snapshot's."""

    port: int | None = None
    routes: Routes | None = None
    routes_version: str | None = None
    service_port: int | None = None
    service_changed: str | None = None


@dataclass(frozen=True, slots=True)
class SmokeReport:
    """How far the smoke test of a release's step is. `words` say what it waits for, and in the end what it found."""

    release: int
    step: int
    words: str = ""
    failures: int | None = None
    """How many requests failed; None until all have their answers."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that a plan is made from."""

    program: Program
    policies: tuple[Policy, ...] = ()
    asked: DesiredRevision | Problem | None = None
    """What the spec asks for, resolved, or why not (the registry's word, a spec that cannot work)."""
    variants: Mapping[str, DesiredRevision | Problem] = field(default_factory=dict)
    """What the policy would have compared besides, by name."""
    revisions: Mapping[str, Revision] = field(default_factory=dict)
    workloads: Mapping[str, Workload] = field(default_factory=dict)
    routes: Routes | None = None
    routes_version: str | None = None
    """The resourceVersion of the routes' object; None when there is none."""
    gateway: Gateway = Gateway()
    preview: Preview = Preview()
    smoke_test: SmokeReport | None = None
    """Of the step at hand."""
    readings: Mapping[str, Reading] = field(default_factory=dict)
    """What Prometheus says, by the names of streams."""
    service_port: int | None = None
    """The target port of the program's Service; None when there is no Service."""
    service_changed: str | None = None
    """The field of the program's Service, other than its port, that somebody changed."""
    description: Description | None = None
    """Of the newest revision that has a Ready pod, if its status does not tell of it yet."""
    forgotten: str = ""
    """What `forget` asked for, if all pods have done it and the status does not tell yet."""
    standstills: tuple[Standstill, ...] = ()
    """Heard of since the last pass."""
    name_conflict: str | None = None
    """The kind and name of an object that has a child's name and is not ours."""
    unknown_receivers: tuple[str, ...] = ()
    """Those that the policy names and the operator's configuration does not know."""
    moving: int = 0
    """How many programs have something in motion: the more, the less often each writes its numbers."""

    @property
    def conflict(self) -> Problem | None:
        """Why nothing new may begin: somebody else's object has the name of one of ours."""
        return name_taken(self.name_conflict) if self.name_conflict else None

    @property
    def cached(self) -> bool:
        """Whether some revision gives answers again."""
        return any(revision.cached for revision in self.revisions.values())

    @property
    def preview_url(self) -> str:
        """Where people may look at a candidate that has no traffic; empty without a preview."""
        name = preview_of(self.program.name)
        return "" if self.preview.service_port is None else f"http://{name}.{self.program.namespace}.svc"

    @property
    def policy(self) -> Policy | None:
        """The policy in force."""
        return self.policies[0] if self.policies else None

    @property
    def asked_revision(self) -> Revision | None:
        """The revision that the spec asks for; None while that is not known."""
        return self.asked.revision if isinstance(self.asked, DesiredRevision) else None

    @property
    def pin(self) -> Pin | None:
        """The pin of `undo`, unless the spec asks for another revision than it did then."""
        pin, asked = self.program.ledger.pin if self.program.ledger else None, self.asked_revision
        return None if pin is None or (asked and asked.name != pin.instead_of) else pin

    @property
    def desired(self) -> DesiredRevision | Problem | None:
        """What is to serve: what the spec asks for, or what `undo` has pinned instead."""
        pin = self.pin
        if pin is None:
            return self.asked
        if pin.revision not in self.revisions:
            return Problem(Reason.UNDONE, f"{pin.revision}, which undo asked for, is gone: `retry {pin.instead_of}`")
        return DesiredRevision(self.revisions[pin.revision], {})

    @property
    def desired_revision(self) -> Revision | None:
        """The revision that is to serve; None while that is not known."""
        return self.desired.revision if isinstance(self.desired, DesiredRevision) else None

    def revision(self, name: str | None) -> Revision | None:
        """A revision by name: one that exists, or one that is still to be created."""
        if name is not None and name in self.revisions:
            return self.revisions[name]
        desired = self.to_create(name)
        return desired.revision if desired else None

    @property
    def asked_for(self) -> frozenset[str]:
        """The revisions that are asked for: by the spec, and by the policy besides."""
        asked = (self.asked, *self.variants.values())
        return frozenset(each.revision.name for each in asked if isinstance(each, DesiredRevision))

    def variant(self, name: str) -> str | None:
        """The revision of a variant; None while it is not known."""
        found = self.variants[name]
        return found.revision.name if isinstance(found, DesiredRevision) else None

    def to_create(self, name: str | None) -> DesiredRevision | None:
        """What a revision is made of that is asked for."""
        asked = [each for each in (self.desired, *self.variants.values()) if isinstance(each, DesiredRevision)]
        return next((each for each in asked if each.revision.name == name), None)

    def version(self, name: str) -> str:
        """A revision's version as people write it, as v7; empty where it is not known."""
        revision = self.revision(name)
        return f"v{revision.version}" if revision else ""

    def label(self, name: str | None) -> str:
        """A revision as people know it: its version, and its name."""
        revision = self.revision(name)
        return f"v{revision.version} ({revision.name})" if revision else str(name)


def name_taken(what: str) -> Problem:
    """The problem of a child whose name somebody else's object has."""
    return Problem(Reason.NAME_TAKEN, f"{what} exists and is not ours: rename the program or delete it")
