"""What was counted: Envoy's statistics read as counts per revision, and kept across restarts of Envoy and agent.

The parts that read and add are pure; `Counts` holds the sums of one gateway pod.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dspy_contract.outcomes import outcome_of
from dspy_contract.state import RevisionCounts
from dspy_gateway.envoy import PREDICT, STATS_PREFIX

STATS_QUERY = f"/stats?format=json&filter=%5E({STATS_PREFIX}%5C.%7Cserver%5C.uptime%24)"
_NAME = re.compile(
    rf"^{STATS_PREFIX}\.(?P<uid>[^.]+)\.(?P<kind>started|answers)\.cluster\.(?P<revision>[^./]+)/(?P<route>[^./]+)"
    r"(?:\.outcome\.(?P<outcome>.*)\.code\.(?P<code>\d+)\.flags\.(?P<flags>[A-Za-z0-9,_-]+))?$"
)

STARTED = "started"
Key = tuple[str, str, str]
"""Program uid, revision, and either `started` or an outcome."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at Envoy: how long it has been up, and its counters by program, revision and outcome."""

    uptime_seconds: int
    counters: Counter[Key]


@dataclass(slots=True)
class Counts:
    """The sums of a pod: what earlier lives of Envoy counted (`base`) plus the latest reading of this one."""

    base: Counter[Key] = field(default_factory=Counter)
    latest: Counter[Key] = field(default_factory=Counter)
    uptime_seconds: int = 0

    def take(self, reading: Reading, programs: Collection[str]) -> bool:
        """Adds a reading and forgets programs that are not in `programs`. True when the sums have changed.

        A shorter uptime or a counter that fell means that Envoy began anew: what it held goes into the base, and the
        requests that were in flight then, which nobody will answer, are counted as cancelled.
        """
        before = self.total()
        fell = any(reading.counters[key] < count for key, count in self.latest.items())
        if fell or reading.uptime_seconds < self.uptime_seconds:
            self.base.update(self.latest)
            self.base.update(_unanswered(self.latest))
        self.uptime_seconds = reading.uptime_seconds
        self.latest = Counter({key: count for key, count in reading.counters.items() if key[0] in programs})
        self.base = Counter({key: count for key, count in self.base.items() if key[0] in programs})
        return self.total() != before

    def total(self) -> Counter[Key]:
        """All that was counted so far."""
        return self.base + self.latest

    def by_program(self) -> dict[str, dict[str, RevisionCounts]]:
        """The sums by program uid and revision."""
        started: dict[tuple[str, str], int] = defaultdict(int)
        outcomes: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
        for (uid, revision, what), count in self.total().items():
            if what == STARTED:
                started[uid, revision] += count
            else:
                outcomes[uid, revision][what] = count
        result: dict[str, dict[str, RevisionCounts]] = defaultdict(dict)
        for uid, revision in {*started, *outcomes}:
            result[uid][revision] = RevisionCounts(started[uid, revision], outcomes[uid, revision])
        return dict(result)


def read_statistics(content: Mapping[str, Any]) -> Reading:
    """Envoy's JSON of statistics as a reading. Only predictions count: other requests have clusters of their own."""
    counters: Counter[Key] = Counter()
    uptime = 0
    for statistic in content["stats"]:
        if statistic.get("name") == "server.uptime":
            uptime = statistic["value"]
        elif (match := _NAME.match(statistic.get("name", ""))) and match["route"] == PREDICT:
            counters[match["uid"], match["revision"], _what(match)] += statistic["value"]
    return Reading(uptime, counters)


def bad_answers(programs: Iterable[Mapping[str, RevisionCounts]]) -> int:
    """How many answers were neither good nor the client's doing; what a waiting poll is woken by."""
    return sum(
        count
        for revisions in programs
        for counts in revisions.values()
        for outcome, count in counts.outcomes.items()
        if outcome not in ("ok", "cancelled")
    )


def _unanswered(counters: Counter[Key]) -> Counter[Key]:
    """What was in flight, as cancelled requests."""
    open_requests: Counter[Key] = Counter()
    for (uid, revision, what), count in counters.items():
        open_requests[uid, revision, "cancelled"] += count if what == STARTED else -count
    return +open_requests


def _what(match: re.Match[str]) -> str:
    if match["kind"] == "started":
        return STARTED
    return outcome_of(match["outcome"], int(match["code"]), match["flags"].split(","))
