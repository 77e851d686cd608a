"""What each revision of a program is to be, by its role: weight and replicas. Derived from the ledger and nothing
else."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dspy_contract.routes import TOTAL_WEIGHT
from dspy_operator.domain.ledger import Ledger


class Role(StrEnum):
    """Why a revision exists now."""

    STABLE = "Stable"
    CANDIDATE = "Candidate"
    DRAINING = "Draining"


@dataclass(frozen=True, slots=True)
class Target:
    """One revision's target. `replicas` is None where its Deployment is left as it is."""

    revision: str
    role: Role
    weight_bp: int
    replicas: int | None


def targets_of(ledger: Ledger, replicas: int) -> tuple[Target, ...]:
    """The targets, stable first; weights are basis points and sum to 10,000. Empty without a stable."""
    if ledger.stable is None:
        return ()
    release = ledger.release
    weight_bp = release.weight_bp if release else 0
    targets = [Target(ledger.stable, Role.STABLE, TOTAL_WEIGHT - weight_bp, replicas)]
    if release:
        targets.append(Target(release.candidate, Role.CANDIDATE, weight_bp, release.replicas_needed(replicas)))
    targets += [Target(draining.revision, Role.DRAINING, 0, None) for draining in ledger.draining]
    return tuple(targets)
