"""What a release knows about its two revisions: counts of the same seconds, folded into the tests of `judgement`.

One source decides: the gateways' counts. A poll that failed adds nothing; a counter that fell has restarted and its new
value is what was added; a gateway pod seen for the first time counts from its first poll, or from zero if it was born
after the release began. A block closes when both arms have had a request: its bounds depend on requests, never on
outcomes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from dspy_contract.outcomes import FAILURES
from dspy_contract.state import Counts, GatewayState
from dspy_operator.api.rollout import Analysis
from dspy_operator.domain.analysis.sequential import Arm, DegradationTest, NonInferiorityTest, combined_log_e, rejects

FAILURE_SHARE, CLIENT_ERROR_SHARE = 0.6, 0.4
"""Weights of the two error streams in the one e-process that guards a release."""

ALPHA_PROMOTE = 0.05
RECENT_REQUESTS = 20.0
UNHEALTHY_SHARE, UNHEALTHY_REQUESTS = 0.5, 5.0


class Verdict(StrEnum):
    """What the evidence says of the candidate."""

    WORSE = "Worse"
    NO_WORSE = "NoWorse"
    UNDECIDED = "Undecided"


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict with its reason and one sentence for people."""

    verdict: Verdict
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class RequestCounts:
    """Requests started, bad answers, and answers of any kind of one revision."""

    requests: int = 0
    failures: int = 0
    client_errors: int = 0
    overloaded: int = 0
    answered: int = 0

    def __add__(self, other: RequestCounts) -> RequestCounts:
        return RequestCounts(
            self.requests + other.requests,
            self.failures + other.failures,
            self.client_errors + other.client_errors,
            self.overloaded + other.overloaded,
            self.answered + other.answered,
        )

    @property
    def error_percent(self) -> float:
        """Failures per request, in percent; 0 without requests."""
        return 100 * min(self.failures / self.requests, 1.0) if self.requests else 0.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that judging needs, checkpointed in the ledger. The open block has not been judged yet."""

    failures: DegradationTest = DegradationTest()
    client_errors: DegradationTest = DegradationTest()
    no_worse: NonInferiorityTest = NonInferiorityTest()
    ceiling: DegradationTest = DegradationTest()
    open_stable: RequestCounts = RequestCounts()
    open_candidate: RequestCounts = RequestCounts()
    open_ceiling: RequestCounts = RequestCounts()
    open_ceiling_stable: RequestCounts = RequestCounts()
    stable: RequestCounts = RequestCounts()
    candidate: RequestCounts = RequestCounts()
    recent_requests: float = 0.0
    recent_failures: float = 0.0
    stable_overloaded: bool = False
    baselines: Mapping[str, Mapping[str, Counts]] = field(default_factory=dict)
    """The cumulative counts seen last, by gateway pod and revision."""

    @property
    def stable_unhealthy(self) -> bool:
        """True while stable itself fails more than half of its recent requests: then nothing can be learnt."""
        return (
            self.recent_requests >= UNHEALTHY_REQUESTS and self.recent_failures > UNHEALTHY_SHARE * self.recent_requests
        )


@dataclass(frozen=True, slots=True)
class ReleasePair:
    """The two revisions of a release, and when it began (Unix seconds)."""

    stable: str
    candidate: str
    started_at: float


def accumulate(
    evidence: Evidence,
    states: Mapping[str, GatewayState],
    uid: str,
    arms: ReleasePair,
    analysis: Analysis,
    now: float,
) -> Evidence:
    """The evidence after one look at the gateways. `states` holds only the pods that answered."""
    stable, candidate = RequestCounts(), RequestCounts()
    baselines = dict(evidence.baselines)
    for pod, state in states.items():
        revisions = state.programs[uid].totals if uid in state.programs else {}
        before = baselines.get(pod)
        if before is None and now - state.age_seconds < arms.started_at:
            before = revisions
        stable += _added(before, revisions, arms.stable)
        candidate += _added(before, revisions, arms.candidate)
        baselines[pod] = {name: revisions[name] for name in (arms.stable, arms.candidate) if name in revisions}
    return _with(replace(evidence, baselines=baselines), stable, candidate, analysis)


def judge(evidence: Evidence, analysis: Analysis) -> Judged:
    """The verdict now. Looking often is free: each test is valid at any look."""
    alpha = analysis.false_rollback_percent / 100
    counts = f"{describe(evidence.candidate)} of the candidate against {describe(evidence.stable)} of stable"
    shares = [(FAILURE_SHARE, evidence.failures.log_e), (CLIENT_ERROR_SHARE, evidence.client_errors.log_e)]
    if rejects(combined_log_e(shares), alpha):
        if shares[0][0] * math.exp(min(shares[0][1], 700)) >= shares[1][0] * math.exp(min(shares[1][1], 700)):
            return Judged(Verdict.WORSE, "FailsMoreOften", f"The candidate fails more often: {counts}")
        stable, candidate = evidence.stable, evidence.candidate
        both = f"{candidate.client_errors} of {candidate.requests} against {stable.client_errors}"
        return Judged(
            Verdict.WORSE,
            "RefusesMoreRequests",
            f"The candidate refuses clients' requests: {both} of {evidence.stable.requests}",
        )
    if analysis.error_rate.max_percent is not None and rejects(evidence.ceiling.log_e, alpha):
        limit = f"{analysis.error_rate.max_percent:g}%"
        return Judged(
            Verdict.WORSE,
            "AboveCeiling",
            f"The candidate fails more often than {limit}: {describe(evidence.candidate)}",
        )
    if rejects(evidence.no_worse.log_e, ALPHA_PROMOTE):
        return Judged(Verdict.NO_WORSE, "NoWorse", f"The candidate is no worse: {counts}")
    return Judged(Verdict.UNDECIDED, "Undecided", f"Not decided yet: {counts}")


def describe(tally: RequestCounts) -> str:
    """A tally in a few words."""
    return f"{tally.failures} failures in {tally.requests} requests"


def _added(before: Mapping[str, Counts] | None, now: Mapping[str, Counts], revision: str) -> RequestCounts:
    if revision not in now:
        return RequestCounts()
    then = (before or {}).get(revision, Counts())
    after = now[revision]

    def grown(outcome: str) -> int:
        return _growth(then.outcomes.get(outcome, 0), after.outcomes.get(outcome, 0))

    return RequestCounts(
        _growth(then.started, after.started),
        sum(grown(outcome) for outcome in FAILURES),
        grown("client_error"),
        grown("overloaded"),
        sum(grown(outcome) for outcome in after.outcomes),
    )


def _growth(before: int, after: int) -> int:
    """What a counter added; one that fell has restarted."""
    return after - before if after >= before else after


def _with(evidence: Evidence, stable: RequestCounts, candidate: RequestCounts, analysis: Analysis) -> Evidence:
    keep = math.exp(-stable.requests / RECENT_REQUESTS)
    held = evidence.stable_unhealthy
    evidence = replace(
        evidence,
        stable=evidence.stable + stable,
        candidate=evidence.candidate + candidate,
        open_stable=evidence.open_stable + stable,
        open_candidate=evidence.open_candidate + candidate,
        recent_requests=keep * evidence.recent_requests + stable.requests,
        recent_failures=keep * evidence.recent_failures + min(stable.failures, stable.requests),
    )
    if analysis.error_rate.max_percent is not None:
        evidence = _ceiling(evidence, stable, candidate, analysis.error_rate.max_percent / 100)
    if evidence.open_stable.requests and evidence.open_candidate.requests:
        # Decided by the past alone, so that what is left out is no choice by outcome.
        return _discard_block(evidence) if held else _close_block(evidence, analysis)
    return evidence


def _close_block(evidence: Evidence, analysis: Analysis) -> Evidence:
    """Judges the open block. Bad answers beyond its starts belong to earlier starts: they are kept for the next
    block."""
    left, right = evidence.open_stable, evidence.open_candidate
    with_overloaded = not evidence.stable_overloaded
    stable, candidate = _arm(left, with_overloaded), _arm(right, with_overloaded)
    clients = Arm(left.requests, left.client_errors), Arm(right.requests, right.client_errors)
    return replace(
        evidence,
        failures=evidence.failures.after(_bounded(stable), _bounded(candidate)),
        client_errors=evidence.client_errors.after(_bounded(clients[0]), _bounded(clients[1])),
        no_worse=evidence.no_worse.after(_bounded(stable), _bounded(candidate), analysis.margin_percent / 100),
        open_stable=_carry_over(left),
        open_candidate=_carry_over(right),
        # Decided by the block before, so that no block chooses by its own outcomes what counts in it.
        stable_overloaded=left.overloaded > 0,
    )


def _discard_block(evidence: Evidence) -> Evidence:
    """Ends the open block without judging it: while stable itself fails, a comparison teaches nothing and spoils its
    rate."""
    return replace(evidence, open_stable=RequestCounts(), open_candidate=RequestCounts())


def _ceiling(evidence: Evidence, stable: RequestCounts, candidate: RequestCounts, limit: float) -> Evidence:
    """The ceiling counts only while stable is under it: else the provider, not the candidate, is at fault."""
    stable, candidate = evidence.open_ceiling_stable + stable, evidence.open_ceiling + candidate
    if candidate.requests == 0:
        return replace(evidence, open_ceiling=candidate, open_ceiling_stable=stable)
    evidence = replace(evidence, open_ceiling=_carry_over(candidate), open_ceiling_stable=RequestCounts())
    if stable.failures > limit * stable.requests:
        return evidence
    return replace(evidence, ceiling=evidence.ceiling.after_alone(_bounded(_arm(candidate, False)), limit))


def _arm(tally: RequestCounts, with_overloaded: bool) -> Arm:
    return Arm(tally.requests, tally.failures + (tally.overloaded if with_overloaded else 0))


def _bounded(arm: Arm) -> Arm:
    return Arm(arm.requests, min(arm.bad, arm.requests))


def _carry_over(tally: RequestCounts) -> RequestCounts:
    return RequestCounts(0, max(tally.failures - tally.requests, 0), max(tally.client_errors - tally.requests, 0), 0)
