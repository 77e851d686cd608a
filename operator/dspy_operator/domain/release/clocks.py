"""Every time that a release is measured by: sums of the bounded differences between passes.

A wall clock that jumps forward skips no pause and cuts nothing that drains; one that jumps backward lengthens nothing.
"""

from __future__ import annotations

from dataclasses import replace

from dspy_operator.domain.ledger import Ledger, Release
from dspy_operator.domain.release.blocking import blocking_reason
from dspy_operator.domain.release.lowering import cause_is_gone
from dspy_operator.domain.snapshot import Snapshot
from dspy_operator.domain.transition import Transition

LONGEST_TICK_SECONDS = 5.0


def advance_clocks(ledger: Ledger, snapshot: Snapshot, now: float) -> Transition:
    """The step's clock runs unless something blocks the release; what drains, drains on."""
    tick = min(max(now - ledger.ticked_at, 0.0), LONGEST_TICK_SECONDS) if ledger.ticked_at else 0.0
    draining = tuple(replace(each, seconds=each.seconds + tick) for each in ledger.draining)
    release = _ticked(ledger, ledger.release, snapshot, tick) if ledger.release else None
    return replace(ledger, ticked_at=now, draining=draining, release=release), ()


def _ticked(ledger: Ledger, release: Release, snapshot: Snapshot, tick: float) -> Release:
    def cleared(about: Release) -> Release:
        if about.lowered is None:
            return about
        clear = about.lowered.clear_seconds + tick if cause_is_gone(about, snapshot) else 0.0
        lowered = replace(about.lowered, clear_seconds=clear, seconds=about.lowered.seconds + tick)
        return replace(about, lowered=lowered)

    release = release.with_each(cleared)
    if release.sized_with_weight:
        release = replace(release, sized_bp=max(release.sized_bp, release.rises_to_bp()))
    if blocking_reason(ledger, snapshot) is not None:
        return replace(release, blocked_seconds=release.blocked_seconds + tick)
    # What ended its block came some time after the last pass: that time is nobody's.
    stepped = 0.0 if release.blocked_seconds else tick
    return replace(release, step_seconds=release.step_seconds + stepped, blocked_seconds=0.0)
