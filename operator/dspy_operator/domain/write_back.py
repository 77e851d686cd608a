"""What the registry is told of a release's end, where a rollout asks for it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dspy_operator.api.reasons import Reason
from dspy_operator.api.rollout import WriteBack
from dspy_operator.domain.ledger import Ended, Ledger
from dspy_operator.domain.snapshot import Snapshot

OUTCOME_TAG, REASON_TAG = "dspy.dev/outcome", "dspy.dev/reason"


@dataclass(frozen=True, slots=True)
class Wish:
    """A version of a registry, an alias that is to name it (empty: none), and the tags that it is to have."""

    registry: str
    uri: str
    alias: str = ""
    tags: Mapping[str, str] | None = None
    problem: str = ""
    """Why it is not even tried."""

    @property
    def words(self) -> str:
        """What is to be, in a few words."""
        alias = [f"the alias {self.alias} names {self.uri}"] if self.alias else []
        tags = [f"{self.uri} is tagged {self.tags[OUTCOME_TAG]}"] if self.tags else []
        return " and ".join([*alias, *tags])


def wishes(before: Ledger | None, after: Ledger, snapshot: Snapshot) -> tuple[Wish, ...]:
    """What is to be written for the releases that ended with this decision."""
    policy = snapshot.policy
    if policy is None or before is None:
        return ()
    asked = policy.spec.write_back
    ended = [each for each in after.history if each not in before.history]
    return tuple(wish for each in ended for wish in _wishes(each, after, snapshot, asked))


def _wishes(ended: Ended, after: Ledger, snapshot: Snapshot, asked: WriteBack) -> tuple[Wish, ...]:
    revision = snapshot.revision(ended.revision)
    if revision is None or ended.outcome == Reason.CANCELLED:
        return ()
    refused = after.refusal(ended.revision) if ended.outcome != Reason.PROMOTED else None
    told = {OUTCOME_TAG: ended.outcome, REASON_TAG: refused.reason if refused else ended.outcome}
    registry = revision.registry or snapshot.program.spec.model.registry
    serving = snapshot.revision(after.stable)
    # Of the version that serves, with other settings, nothing is said but that it was promoted.
    serves = refused is not None and serving is not None and serving.model_uri == revision.model_uri
    found = [Wish(registry, revision.model_uri, tags=told)] if asked.tags and not serves else []
    if asked.promoted_alias and ended.outcome == Reason.PROMOTED:
        alias = f"{revision.model_uri.rpartition('/')[0]}@{asked.promoted_alias}"
        followed = snapshot.program.spec.model.uri == alias
        problem = "the program follows that alias, and moving it would start releases" if followed else ""
        found.append(Wish(registry, revision.model_uri, asked.promoted_alias, problem=problem))
    return tuple(found)
