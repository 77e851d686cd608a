"""What is remembered of programs between passes, shared by passes and by the guard's looks. All of it may be lost."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dspy_contract.routes import Backend
from dspy_operator.api.rollout import Analysis
from dspy_operator.domain.analysis.evidence import Evidence
from dspy_operator.domain.guard import Watched
from dspy_operator.domain.ledger import Ledger
from dspy_operator.domain.release.progress import awaits_answers
from dspy_operator.domain.snapshot import Problem


@dataclass(frozen=True, slots=True)
class Shown:
    """What the API said of a revision's pods, and until when (the loop's time) a refusal is not asked for again."""

    problem: Problem | None
    until: float

    def asked_again_after(self) -> float | None:
        """In how many seconds a refusal is asked for again."""
        return max(self.until - asyncio.get_running_loop().time(), 0.0) if self.problem else None


@dataclass(slots=True)
class Memory:
    """What is remembered of one program."""

    ledger: Ledger | None = None
    """The newest, with evidence that is not stored yet."""
    analysis: Analysis = field(default_factory=Analysis)
    kept: Mapping[str, int] = field(default_factory=dict)
    """By gateway pod and incarnation, up to which draw table the stored ledger keeps the counts."""
    confirmed: tuple[int, str] | None = None
    """Serial and content of the routes that the gateways were seen to obey."""
    shown: Mapping[str, Shown] = field(default_factory=dict)
    """By revision that is asked for and not created yet."""
    policy_known_for: str = ""
    """The revision for which the namespace's rollouts were listed, since it is about to start."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a release beyond what the gateways still tell: by the last pass, and by the looks since."""

    release: int
    step: int
    analysis: Analysis
    backends: Mapping[str, Backend]
    """What its candidates are to have."""
    watched: Mapping[str, Watched]
    """Of its candidates."""


NO_RELEASE = Known(0, 0, Analysis(), {}, {})
"""What a pass knew when it had no release: routes that name one are not to be trusted until a pass has mended them."""


class Memories:
    """The memories of all programs, by namespace and name."""

    def __init__(self) -> None:
        self._memories: defaultdict[tuple[str, str], Memory] = defaultdict(Memory)

    def of(self, namespace: str, name: str) -> Memory:
        """A program's memory, which a pass fills."""
        return self._memories[namespace, name]

    def forget(self, namespace: str, name: str) -> None:
        """Forgets a program that is gone."""
        self._memories.pop((namespace, name), None)

    def known(self, namespace: str, name: str) -> Known | None:
        """What the last pass knew of a release; None when no pass has been."""
        memory = self._memories.get((namespace, name))
        if memory is None or memory.ledger is None:
            return None
        release = memory.ledger.release
        if release is None:
            return NO_RELEASE
        backends = {each.candidate: each.backend for each in release.each}
        watched = {each.candidate: Watched(each.evidence, each.answered) for each in release.each}
        return Known(release.id, release.step, memory.analysis, backends, watched)

    def remember(self, namespace: str, name: str, release: int, evidence: Mapping[str, Evidence]) -> None:
        """Takes the evidence that a look saw of a release's candidates: what a gateway pod told is kept though it goes
        before the next pass."""
        memory = self._memories.get((namespace, name))
        ledger = memory.ledger if memory else None
        if memory is not None and ledger is not None and ledger.release is not None and ledger.release.id == release:
            seen = ledger.release.with_each(
                lambda each: replace(each, evidence=evidence.get(each.candidate, each.evidence))
            )
            memory.ledger = replace(ledger, release=seen)

    def awaits_answers(self, namespace: str, name: str) -> bool:
        """True while what the release does next hangs on requests that have not ended."""
        memory = self._memories.get((namespace, name))
        ledger = memory.ledger if memory else None
        return ledger is not None and (ledger.release is None or awaits_answers(ledger.release))

    def kept(self, namespace: str, name: str) -> Mapping[str, int]:
        """What of draw tables the stored ledger keeps; see `Memory`."""
        memory = self._memories.get((namespace, name))
        return memory.kept if memory else {}
