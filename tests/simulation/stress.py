"""One release, event by event, judged by the code that ships: what healthy candidates must survive, and how soon bad
ones are found.

One gateway pod (the agent's own book and tables), one candidate, looks as the guard makes them; no cluster around it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from dspy_contract.routes import TOTAL_WEIGHT, Backend, ReleaseRef, Routes
from dspy_contract.state import Interest, Poll
from dspy_operator.api.rollout import Analysis
from dspy_operator.domain.analysis.evidence import Evidence, Look, accumulate
from dspy_operator.domain.analysis.judge import is_confirmed, judge
from dspy_operator.domain.analysis.verdict import Verdict
from tests.simulation.behaviour import Answer, Surroundings, Version
from tests.simulation.gateway import SimulatedGateway

UID, STABLE, CANDIDATE = "uid", "stable", "candidate"
TICK_SECONDS, RATE = 0.1, 20.0
LATENCY_SECONDS, SIGMA, TIMEOUT_SECONDS = 1.5, 0.5, 60.0

Weights = Sequence[tuple[float, float]]
"""From when on (seconds of the release) which weight of the candidate, in percent."""

STEADY: Weights = ((0, 10),)
RAMP: Weights = ((0, 5), (60, 25), (120, 50))
FALLING: Weights = ((0, 50), (50, 5), (100, 50), (150, 2))


def version(**behaviour: float) -> Version:
    """A version that answers in about a second and a half, unless it is told otherwise."""
    return replace(Version(0, latency_seconds=LATENCY_SECONDS, latency_sigma=SIGMA), **behaviour)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Stress:
    """A release: both versions, what surrounds them, and the candidate's weights.

    `known_seconds`: how long stable was watched before. `outage`: from when to when the provider fails for both.
    """

    name: str
    candidate: Version
    stable: Version = field(default_factory=version)
    weights: Weights = STEADY
    seconds: float = 200.0
    known_seconds: float = 0.0
    look_seconds: float = 0.5
    patience_seconds: float | None = None
    outage: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """What became of a release. `lowered_after`: seconds since the candidate got its weight; None: it never was."""

    lowered_after: float | None
    bad_answers: int
    confirmed: bool


HEALTHY = (
    Stress("1% fail on both sides, under a ramp", version(failure_rate=0.01), version(failure_rate=0.01), RAMP),
    Stress("an outage of the provider that hits both", version(), outage=(40, 70)),
    Stress("clients leave after 3 s", version(), patience_seconds=3.0),
    Stress("the share falls amid time-outs", version(hang_share=0.02), version(hang_share=0.02), FALLING),
    Stress("answers with a heavy tail", version(latency_sigma=1.5), version(latency_sigma=1.5)),
    Stress("10% slower", version(latency_seconds=1.1 * LATENCY_SECONDS)),
    Stress("20% slower", version(latency_seconds=1.2 * LATENCY_SECONDS)),
)

FAULTS = (
    (Stress("always fails", version(failure_rate=1.0), look_seconds=0.1), 2.5),
    (Stress("fails 20%", version(failure_rate=0.2)), 15.0),
    (Stress("fails 5%", version(failure_rate=0.05), seconds=900.0, look_seconds=2.0), 132.0),
    (Stress("hangs always", version(hang_share=1.0)), 22.0),
    (Stress("hangs 25%", version(hang_share=0.25)), 37.0),
    (Stress("four times slower", version(latency_seconds=4 * LATENCY_SECONDS), seconds=400.0), 30.0),
)
"""Each with the published median of seconds until it is lowered (weight 10 %, 20 requests a second)."""


def run(stress: Stress, seed: int) -> Ending:
    """One release from its first weight until the candidate is lowered and settled, or its time is over."""
    release = _Release(stress, random.Random(seed))
    release.pass_time(-stress.known_seconds - TICK_SECONDS, 0.0)
    lowered = release.pass_time(0.0, stress.seconds)
    if lowered is None:
        return Ending(None, release.bad_answers, False)
    bad = release.bad_answers
    release.settle(lowered)
    return Ending(lowered, bad, is_confirmed(judge(release.evidence, Analysis())))


class _Release:
    def __init__(self, stress: Stress, chance: random.Random) -> None:
        self._stress = stress
        self._chance = chance
        self._surroundings = Surroundings(patience_seconds=stress.patience_seconds, timeout_seconds=TIMEOUT_SECONDS)
        self._gateway = SimulatedGateway("gateway", lambda: {STABLE: 1, CANDIDATE: 1}, self._answer)
        self._routes = _routes(1, 0.0, None)
        self._tick = 0
        self.evidence = Evidence()

    @property
    def bad_answers(self) -> int:
        return self.evidence.candidate.failures

    def pass_time(self, start: float, end: float) -> float | None:
        """Lets the release go on between two times; when the candidate was found worse, if it was."""
        looked_at, owed = start, 0.0
        for tick in range(round((end - start) / TICK_SECONDS)):
            now = start + tick * TICK_SECONDS
            self._surroundings.provider_failure_rate = self._outage(now)
            self._follow(now)
            self._gateway.tick(now, self._routes)
            owed += RATE * TICK_SECONDS
            while owed >= 1:
                owed -= 1
                self._gateway.request(now, self._chance)
            if now - looked_at >= self._stress.look_seconds - 1e-9:
                looked_at = now
                if self._look(now) is Verdict.WORSE and now >= 0:
                    return now
        return None

    def settle(self, lowered: float) -> None:
        """Takes the candidate's weight away and waits until everything that it drew is answered."""
        self._routes = _routes(self._routes.serial + 1, 0.0, 1)
        now = lowered
        while now < lowered + TIMEOUT_SECONDS + 15:
            now += TICK_SECONDS
            self._gateway.tick(now, self._routes)
        self._look(now)

    def _follow(self, now: float) -> None:
        weight = next((percent for since, percent in reversed(self._stress.weights) if now >= since), 0.0)
        release = 1 if now >= 0 else None
        epoch = self.evidence.epoch
        wanted = _routes(self._routes.serial, weight, release, epoch)
        if wanted != self._routes:
            self._routes = replace(wanted, serial=self._routes.serial + 1)

    def _look(self, now: float) -> Verdict:
        kept = max(self.evidence.kept.values(), default=0)
        state = self._gateway.answer(Poll({UID: Interest(guarding=1, kept=kept)}), now)
        self.evidence = accumulate(self.evidence, {"gateway": state}, Look(UID, STABLE, CANDIDATE, 1, 0, now))
        return judge(self.evidence, Analysis()).verdict

    def _answer(self, revision: str) -> Answer:
        which = self._stress.candidate if revision == CANDIDATE else self._stress.stable
        return self._surroundings.answer(which, self._chance)

    def _outage(self, now: float) -> float:
        outage = self._stress.outage
        return 1.0 if outage and outage[0] <= now < outage[1] else 0.0


def _routes(serial: int, percent: float, release: int | None, epoch: int = 0) -> Routes:
    weight = round(percent * TOTAL_WEIGHT / 100)
    backends = (Backend(STABLE, TOTAL_WEIGHT - weight), Backend(CANDIDATE, weight))
    named = ReleaseRef(release, STABLE, (CANDIDATE,), epoch) if release is not None else None
    return Routes("qa", UID, serial, round(TIMEOUT_SECONDS), backends, named)


def endings(stress: Stress, releases: int) -> list[Ending]:
    """Many releases under one stress, each with a seed of its own."""
    return [run(stress, seed) for seed in range(releases)]
