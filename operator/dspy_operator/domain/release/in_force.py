"""By what a release is judged now."""

from __future__ import annotations

from dataclasses import replace

from dspy_operator.api.rollout import Analysis
from dspy_operator.domain.ledger import Release
from dspy_operator.domain.snapshot import Snapshot


def analysis_of(release: Release, snapshot: Snapshot) -> Analysis:
    """The analysis in force: the policy's as it stands now, at the strictest alpha since the release began, shared by
    its candidates, with the streams of its beginning: evidence was spent on them."""
    analysis = snapshot.policy.spec.analysis if snapshot.policy else Analysis()
    alpha = min(analysis.false_rollback_percent / len(release.candidates), release.false_rollback_percent)
    return replace(analysis, false_rollback_percent=alpha, streams=release.streams)
