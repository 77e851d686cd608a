"""Which revisions keep their files in the cluster: small ones, within a budget for all of them."""

from __future__ import annotations

from collections.abc import Collection

from dspy_kube.client import Object
from dspy_operator.registry.mlflow import LARGEST_ARCHIVE_BYTES


class Archives:
    """Counts what ControllerRevisions say that their Secrets hold. Times and I/O are no part of it."""

    def __init__(self, budget_bytes: int, excluded: Collection[str]) -> None:
        """`excluded` are the namespaces in which no Secret is made."""
        self._budget_bytes = budget_bytes
        self._excluded = excluded
        self.held_bytes = 0

    def takes(self, namespace: str, archive_bytes: int) -> bool:
        """True when one more archive of that size may be kept there; 0 is one that is too large for a Secret."""
        fits = self.held_bytes + archive_bytes <= self._budget_bytes
        return archive_bytes > 0 and fits and namespace not in self._excluded

    def note(self, before: Object | None, after: Object | None) -> None:
        """A ControllerRevision has come, changed or gone."""
        self.held_bytes += _bytes(after) - _bytes(before)


def _bytes(revision: Object | None) -> int:
    """What a revision says, as far as a Secret can hold it: whoever may make revisions of their own spends no more of
    the budget than anybody else."""
    model = ((revision or {}).get("data") or {}).get("model")
    told = model.get("archiveBytes", 0) if isinstance(model, dict) else 0
    return min(max(told, 0), LARGEST_ARCHIVE_BYTES) if isinstance(told, int) else 0
