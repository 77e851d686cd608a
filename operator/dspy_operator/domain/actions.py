"""What a plan may ask for: a closed set of actions, as data. `kube.execute` carries them out."""

from __future__ import annotations

from dataclasses import dataclass

from dspy_contract.routes import Routes
from dspy_operator.domain.snapshot import DesiredRevision, Revision


@dataclass(frozen=True, slots=True)
class CreateRevision:
    """Creates a ControllerRevision, whose Deployment an earlier pass has shown to the API."""

    desired: DesiredRevision


@dataclass(frozen=True, slots=True)
class ServeRevision:
    """Brings a revision's Deployment and headless Service to be, with that many replicas."""

    revision: Revision
    replicas: int
    create: bool


@dataclass(frozen=True, slots=True)
class ServeArchive:
    """Makes the Secret with a revision's files again, for which a pod of it waits."""

    revision: Revision


@dataclass(frozen=True, slots=True)
class Repair:
    """Applies a revision's Deployment (with that many replicas) or Service again, of which somebody changed a field."""

    kind: str
    revision: Revision
    replicas: int
    field: str


@dataclass(frozen=True, slots=True)
class RepairService:
    """The same for a Service of the program's own: its address, or its preview's."""

    name: str
    port: int
    field: str


@dataclass(frozen=True, slots=True)
class WriteRoutes:
    """Writes routes, of the program or of its preview, over the version that they were derived from.

    `version` is None while there are none, so that a stranger's object is never taken over.
    """

    routes: Routes
    version: str | None


@dataclass(frozen=True, slots=True)
class ApplyService:
    """Points a Service of the program's own at its port of the gateway."""

    name: str
    port: int
    create: bool


@dataclass(frozen=True, slots=True)
class MarkStable:
    """Notes on a revision's Deployment when it became stable."""

    revision: str
    at: float


@dataclass(frozen=True, slots=True)
class Delete:
    """Deletes an object of ours: the very one that was seen, where its uid is given."""

    kind: str
    name: str
    uid: str | None = None


@dataclass(frozen=True, slots=True)
class KeepLostLedger:
    """Keeps a ledger that no version can read, once, where a person finds it."""

    content: str


Action = (
    KeepLostLedger
    | CreateRevision
    | ServeRevision
    | ServeArchive
    | Repair
    | RepairService
    | WriteRoutes
    | ApplyService
    | MarkStable
    | Delete
)
