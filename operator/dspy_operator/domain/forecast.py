"""What a release under a policy would take at a given traffic: its steps, and when a fault would be seen. Pure.

By the tests that judge releases, on the counts that are expected: half of all faults are seen sooner, half later.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from dspy_contract.routes import TOTAL_WEIGHT
from dspy_operator.api.rollout import Analysis, CanaryReplicas, RolloutSpec
from dspy_operator.domain import strategies
from dspy_operator.domain.analysis import ceiling, label_test, no_worse
from dspy_operator.domain.analysis.draws import Draws, rejects
from dspy_operator.domain.analysis.judge import WATCHED_ALPHA, ceiling_by
from dspy_operator.domain.analysis.streams import BOUNDS_ANSWERS, Stream, failed_of
from dspy_operator.domain.ledger import Release
from dspy_operator.domain.release.progress import at_step
from dspy_operator.domain.steps import (
    Compare,
    Mirror,
    PauseApproval,
    PauseRequests,
    PauseSeconds,
    SmokeTest,
    Step,
    Watch,
)

FAULTS = (0.01, 0.05, 0.2, 1.0)
"""How often the candidate fails, as a fraction."""
MOST_REQUESTS = 1_000_000
"""A fault that is not seen within so many requests of the candidate is called unseen."""
HALF = 0.5
START_SECONDS = 5.0
"""What stable answers while the candidate starts is of the release as well."""


@dataclass(frozen=True, slots=True)
class Seen:
    """When a fault is seen: after so many requests of the candidate, bad answers among them, and seconds."""

    requests: int
    bad_answers: int
    seconds: float


@dataclass(frozen=True, slots=True)
class StepForecast:
    """A step: what it does, the candidate's weight and pods in it, how long it takes (None: as long as a person does),
    and when each of FAULTS is seen that begins with it (None: not)."""

    name: str
    weight_percent: float
    pods: int
    seconds: float | None
    seen: tuple[Seen | None, ...]


@dataclass(frozen=True, slots=True)
class Forecast:
    """A release. `proof_seconds` is how long it takes to show, at the last step's weight, that a candidate is no worse
    which is not; None without traffic to both, and where users are compared instead. `by_users`: these are counted, as
    if each request were another user's."""

    steps: tuple[StepForecast, ...]
    proof_seconds: float | None
    proof_requests: int | None
    by_users: bool = False

    @property
    def seconds(self) -> float | None:
        """Of all steps; None where a person is waited for."""
        found = [step.seconds for step in self.steps]
        return sum(each for each in found if each is not None) if None not in found else None


def forecast(spec: RolloutSpec, replicas: int, rate: float, failing: float, by_users: bool = False) -> Forecast:
    """The forecast of a release at `rate` requests a second, of which stable fails the share `failing`. `by_users`:
    conversations are drawn, and not requests."""
    candidates = 1 + len(spec.strategy.ab_test.variants)
    analysis = replace(spec.analysis, false_rollback_percent=spec.analysis.false_rollback_percent / candidates)
    steps = strategies.steps_of(spec.strategy, candidates)
    sized = spec.strategy.canary.replicas is CanaryReplicas.WITH_WEIGHT
    release = Release("candidate", id=0, started_at=0.0, steps=steps, sized_with_weight=sized)
    found: list[StepForecast] = []
    stable_requests = START_SECONDS * rate
    for number, step in enumerate(steps):
        release = at_step(release, number)
        share_bp = step.desired_weight_bp(release.weight_bp)
        pods = release.replicas_needed(replicas)
        release = replace(release, weight_bp=share_bp)
        weight, copied = (share / TOTAL_WEIGHT for share in (release.backend.weight, release.backend.mirror))
        seconds = _seconds(step, rate * (weight + copied))
        before = stable_requests if isinstance(step, Watch) else None
        # Of several candidates each is judged by its own requests and stable's.
        both = 1 - (candidates - 1) * weight if not isinstance(step, Watch) else 1.0
        drawn = rate * both, weight / both
        seen = tuple(_seen_of(analysis, fault, failing, *drawn, copied, before) for fault in FAULTS)
        found.append(StepForecast(_name(step), weight * 100, pods, seconds, seen))
        stable_requests += (seconds or 0.0) * rate * (both - weight)
    if any(isinstance(step, Compare) for step in steps):
        return Forecast(tuple(found), None, None, by_users=True)
    proof = _proof(analysis, failing, rate, release.backend.weight / TOTAL_WEIGHT)
    return Forecast(tuple(found), *((None, None) if by_users else proof), by_users)


def _name(step: Step) -> str:
    match step:
        case Mirror():
            lasting = [f"{step.seconds} s"] * bool(step.seconds) + [f"{step.requests} copies"] * bool(step.requests)
            return f"copy {step.percent_bp / 100:g} %, {' and '.join(lasting)}"
        case PauseSeconds(seconds):
            return f"pause {seconds} s"
        case PauseRequests(requests):
            return f"pause {requests} requests"
        case PauseApproval():
            return "pause until approved"
        case SmokeTest():
            return f"smoke test, {len(step.requests)} requests"
        case Compare():
            return f"compare {step.stream} by users"
        case Watch(seconds, _):
            return f"watch {seconds} s"
    return f"set weight {step.weight_bp / 100:g} %"


def _seconds(step: Step, candidate_rate: float) -> float | None:
    match step:
        case PauseSeconds(seconds) | Watch(seconds, _):
            return float(seconds)
        case Mirror():
            return max(step.seconds, step.requests / candidate_rate)
        case PauseRequests(requests):
            return requests / candidate_rate if candidate_rate else None
        case PauseApproval():
            return None
        case Compare():
            return float(step.max_seconds)
    return 0.0


def _seen_of(
    analysis: Analysis,
    fault: float,
    failing: float,
    rate: float,
    weight: float,
    copied: float,
    stable_before: float | None,
) -> Seen | None:
    """When a candidate that fails that share is lowered, be it of requests or of copies: those no client gets."""
    if not copied:
        return _seen(analysis, fault, failing, rate, weight, stable_before)
    seen = _seen(analysis, fault, failing, rate * (1 + copied), copied / (1 + copied), None)
    return replace(seen, bad_answers=0) if seen else None


def _seen(
    analysis: Analysis, fault: float, failing: float, rate: float, weight: float, stable_before: float | None
) -> Seen | None:
    """`stable_before` are stable's requests until now, where the candidate is watched: its ceiling hangs on them."""
    failed = failed_of(analysis.streams)
    if failed is None:
        return None
    alpha = analysis.false_rollback_percent / 100
    if stable_before is None or weight <= HALF:
        return _judged(failed, fault, failing, rate, weight, alpha)
    limit = _ceiling(failed, analysis, failing, stable_before)
    doubted = _first(lambda n: limit < 1 and rejects(ceiling.log_e(n, round(n * fault), limit), WATCHED_ALPHA))
    directly = _judged(failed, fault, failing, rate, weight, alpha)
    if doubted is None:
        return directly
    after = _judged(failed, fault, failing, rate, HALF, alpha)
    if after is None:
        return directly
    seconds = doubted / (rate * weight) + after.seconds
    stepped = Seen(doubted + after.requests, round(doubted * fault) + after.bad_answers, seconds)
    return min((each for each in (directly, stepped) if each), key=lambda each: each.seconds)


def _ceiling(failed: Stream, analysis: Analysis, failing: float, stable_requests: float) -> float:
    if failed.limit is not None:
        return failed.limit
    requests = round(stable_requests)
    return ceiling_by(analysis, requests, round(requests * failing))


def _judged(failed: Stream, fault: float, failing: float, rate: float, weight: float, alpha: float) -> Seen | None:
    """By the label test alone, on the failures."""
    if not 0 < weight < 1 or fault <= failing:
        return None

    def is_worse(requests: int) -> bool:
        of_stable = round(requests * (1 - weight) / weight)
        draws = Draws(weight, of_stable, requests, round(of_stable * failing), round(requests * fault))
        return rejects(label_test.log_e([draws], failed.tolerance), alpha / failed.share)

    requests = _first(is_worse)
    return Seen(requests, round(requests * fault), requests / (rate * weight)) if requests else None


def _proof(analysis: Analysis, failing: float, rate: float, weight: float) -> tuple[float | None, int | None]:
    """Seconds and requests of the candidate until one that fails as often as stable is shown to be no worse."""
    if not 0 < weight < 1:
        return None, None
    margin = analysis.margin_percent / 100

    def is_shown(requests: int) -> bool:
        of_stable = round(requests * (1 - weight) / weight)
        bad = round(of_stable * failing), round(requests * failing)
        return of_stable >= BOUNDS_ANSWERS and rejects(
            no_worse.log_e([Draws(weight, of_stable, requests, *bad)], margin), no_worse.ALPHA
        )

    requests = _first(is_shown)
    return (requests / (rate * weight), requests) if requests else (None, None)


def _first(holds: Callable[[int], bool]) -> int | None:
    """The first number for which it holds, if it holds for all greater ones; None beyond MOST_REQUESTS."""
    high = 1
    while not holds(high):
        high *= 2
        if high > MOST_REQUESTS:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
