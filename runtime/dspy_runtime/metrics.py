"""Prometheus metrics of one runtime process, for people: the gateway's counts, not these, decide releases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from dspy_contract.outcomes import NANO_USD
from dspy_runtime.admission import Admission

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)


class Metrics:
    """The metrics and the registry that holds them."""

    def __init__(self, revision: str, admission: Admission) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "dspy_runtime_requests",
            "Predictions that ended, by outcome.",
            ["revision", "outcome"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "dspy_runtime_request_seconds",
            "Duration of a prediction in seconds.",
            ["revision"],
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self._tokens = Counter(
            "dspy_runtime_tokens",
            "Tokens by language model and kind.",
            ["revision", "lm", "kind"],
            registry=self.registry,
        )
        self._cost = Counter(
            "dspy_runtime_cost_usd",
            "US dollars by language model, of answers whose price is known.",
            ["revision", "lm"],
            registry=self.registry,
        )
        self._unpriced = Counter(
            "dspy_runtime_unpriced_answers",
            "Answers of language models whose price is not known.",
            ["revision", "lm"],
            registry=self.registry,
        )
        self._calls = Counter(
            "dspy_runtime_lm_calls",
            "Calls of language models that ended, each try by itself, by outcome.",
            ["revision", "lm", "outcome"],
            registry=self.registry,
        )
        self._hedges = Counter(
            "dspy_runtime_lm_hedges",
            "Second calls beside one that took unusually long.",
            ["revision", "lm"],
            registry=self.registry,
        )
        self._guardrails = Counter(
            "dspy_runtime_guardrail_checks",
            "Checks of guardrails by what came of them: Pass, Flag, Mask, Block, or Failed.",
            ["revision", "guardrail", "result"],
            registry=self.registry,
        )
        self._cache = Counter(
            "dspy_runtime_cache_lookups",
            "Answers looked for among those kept, by tier (memory, redis) and result (hit, miss, joined, error).",
            ["revision", "tier", "result"],
            registry=self.registry,
        )
        self._blocked = Counter(
            "dspy_runtime_event_loop_blocked_seconds",
            "Seconds for which the program held up the event loop, and with it all requests.",
            ["revision"],
            registry=self.registry,
        ).labels(revision)
        self.abandoned = Gauge(
            "dspy_runtime_threads_abandoned",
            "Threads that still run a request that has ended.",
            ["revision"],
            registry=self.registry,
        ).labels(revision)
        in_flight = Gauge(
            "dspy_runtime_requests_in_flight", "Predictions that run now.", ["revision"], registry=self.registry
        )
        queued = Gauge(
            "dspy_runtime_requests_queued", "Predictions that wait for a place.", ["revision"], registry=self.registry
        )
        in_flight.labels(revision).set_function(lambda: admission.running)
        queued.labels(revision).set_function(lambda: admission.waiting)
        self._revision = revision
        self._duration = self._seconds.labels(revision)
        self._outcomes: dict[str, Any] = {}

    def record(self, outcome: str, seconds: float | None) -> None:
        """Counts the end of a request, and how long it took, if that is known."""
        self._count(outcome)
        if seconds is not None:
            self._duration.observe(seconds)

    def record_lm(self, lm: str, prompt: int | None, completion: int | None, nano_usd: int | None) -> None:
        """Counts what one answer of a language model took, and what it cost, where that is known."""
        if nano_usd is None:
            self._unpriced.labels(self._revision, lm).inc()
        else:
            self._cost.labels(self._revision, lm).inc(nano_usd / NANO_USD)
        for kind, count in (("prompt", prompt), ("completion", completion)):
            if count:
                self._tokens.labels(self._revision, lm, kind).inc(count)

    def record_call(self, lm: str, outcome: str) -> None:
        """Counts the end of one try of a call."""
        self._calls.labels(self._revision, lm, outcome).inc()

    def record_hedge(self, lm: str) -> None:
        """Counts a second call beside one that took unusually long."""
        self._hedges.labels(self._revision, lm).inc()

    def record_guardrail(self, guardrail: str, result: str) -> None:
        """Counts what a guardrail did: Pass, Flag, Mask, Block, or Failed."""
        self._guardrails.labels(self._revision, guardrail, result).inc()

    def record_cache(self, tier: str, result: str) -> None:
        """Counts a look into a tier of the cache: hit, miss, or error."""
        self._cache.labels(self._revision, tier, result).inc()

    def watch_breakers(self, breakers: Mapping[str, Callable[[], float]]) -> None:
        """Shows where each endpoint's breaker stands, by the name of its language model."""
        gauge = Gauge(
            "dspy_runtime_lm_breaker",
            "Circuit breaker of a language model's endpoint: 0 closed, 1 half open, 2 open.",
            ["revision", "lm"],
            registry=self.registry,
        )
        for lm, position in breakers.items():
            gauge.labels(self._revision, lm).set_function(position)

    def watch_budget(self, usd: float, spent: Callable[[], float]) -> None:
        """Shows the day's budget, and what of it is spent."""
        whole = Gauge(
            "dspy_runtime_budget_usd",
            "US dollars that language models may cost in a day.",
            ["revision"],
            registry=self.registry,
        )
        part = Gauge(
            "dspy_runtime_budget_spent_usd",
            "US dollars of the day's budget that are spent, as far as this pod knows of all that share it.",
            ["revision"],
            registry=self.registry,
        )
        whole.labels(self._revision).set(usd)
        part.labels(self._revision).set_function(spent)

    def watch_redis(self, is_up: Callable[[], bool]) -> None:
        """Shows whether Redis is asked."""
        gauge = Gauge("dspy_runtime_redis_up", "Whether Redis answers: 1, or 0.", ["revision"], registry=self.registry)
        gauge.labels(self._revision).set_function(lambda: float(is_up()))

    def record_blocked(self, seconds: float) -> None:
        """Counts for how long the event loop stood still."""
        self._blocked.inc(seconds)

    def _count(self, outcome: str) -> None:
        counter = self._outcomes.get(outcome)
        if counter is None:
            counter = self._outcomes[outcome] = self._requests.labels(self._revision, outcome)
        counter.inc()
