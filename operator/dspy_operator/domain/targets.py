"""What each revision of a program is to be, by its role: weight and replicas. Derived from the ledger and nothing
else."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dspy_contract.routes import TOTAL_WEIGHT, Backend
from dspy_operator.domain.ledger import Ledger


class Role(StrEnum):
    """Why a revision exists now."""

    STABLE = "Stable"
    CANDIDATE = "Candidate"
    DRAINING = "Draining"


@dataclass(frozen=True, slots=True)
class Target:
    """One revision's target: what it is to the gateways, and how many pods it has. `replicas` is None where its
    Deployment is left as it is."""

    role: Role
    backend: Backend
    replicas: int | None

    @property
    def revision(self) -> str:
        """Which revision it is."""
        return self.backend.revision


def targets_of(ledger: Ledger, replicas: int) -> tuple[Target, ...]:
    """The targets, stable first; weights are basis points and sum to 10,000. Empty without a stable."""
    if ledger.stable is None:
        return ()
    release = ledger.release
    each_candidate = release.each if release else ()
    weight = TOTAL_WEIGHT - sum(each.backend.weight for each in each_candidate)
    targets = [Target(Role.STABLE, Backend(ledger.stable, weight), replicas)]
    targets += [Target(Role.CANDIDATE, each.backend, each.replicas_needed(replicas)) for each in each_candidate]
    targets += [Target(Role.DRAINING, Backend(draining.revision, 0), None) for draining in ledger.draining]
    return tuple(targets)
