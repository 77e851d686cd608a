"""What was counted: Envoy's statistics, summed over its restarts and evictions, by program, draw table and revision.

Statistics live in Envoy until nothing has used them for a while; one that vanished or fell began anew, and its last
value is kept here. The part that reads is pure; `Sums` holds the sums of one gateway pod.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from dspy_contract.outcomes import Outcome, outcome_of
from dspy_contract.stat_names import (
    ANSWERS,
    COST,
    ENDED,
    OLDER,
    PREFIX,
    PRICED,
    STARTED,
    SUMS,
    TOKENS,
    Name,
    is_copy,
    parse,
)
from dspy_contract.state import EDGES_SECONDS, FAST_EDGES_SECONDS, Counts

MOST_FILTERED = 50
"""With more programs than this, a look reads all statistics: a longer pattern costs more than it saves."""

_FLAGGED = "said."
Key = tuple[int, str, str]
"""Table number, revision, and `started`, one of SUMS, an outcome, `said.<flag>`, or `older.<edge>` / `ended.<edge>`."""


def statistics_query(uids: Collection[str] | None) -> str:
    """The admin path that reads the counters of these programs, or of all."""
    which = f"({'|'.join(sorted(uids))})@" if uids is not None and len(uids) <= MOST_FILTERED else ""
    pattern = rf"^{PREFIX}\.[a-z]+\.table\.{which}"
    return f"/stats?format=json&filter={quote(pattern, safe='')}"


def read_statistics(content: Mapping[str, Any], incarnation: str) -> dict[str, Counter[Key]]:
    """Envoy's JSON of statistics as counters by program uid. Tables of another incarnation do not count."""
    counters: dict[str, Counter[Key]] = defaultdict(Counter)
    for statistic in content["stats"]:
        name = parse(statistic.get("name", ""))
        if name is None or name.incarnation != incarnation:
            continue
        if name.kind == ANSWERS:
            outcome = outcome_of(name.outcome, name.code, name.flags, name.trailer)
            what = str(Outcome.LOST if is_copy(name.revision) and _is_given_up(name, outcome) else outcome)
        else:
            what = name.kind if name.kind in (STARTED, *SUMS) else f"{name.kind}.{name.edge}"
        counters[name.uid][name.number, name.revision, what] += statistic["value"]
        for flag in name.said:
            counters[name.uid][name.number, name.revision, f"{_FLAGGED}{flag}"] += statistic["value"]
    return counters


def _is_given_up(name: Name, outcome: Outcome) -> bool:
    """Of a copy, whether Envoy ended it because its request was not there to the end in time. Nobody leaves one."""
    too_late = name.code == HTTPStatus.REQUEST_TIMEOUT and not name.outcome
    return outcome is Outcome.CANCELLED or too_late


def only_flags(reading: Counter[Key], flags: Collection[str]) -> Counter[Key]:
    """A reading without the flags that nobody asks for: a program may give its answers as many as it likes."""
    kept = {f"{_FLAGGED}{flag}" for flag in flags}
    return Counter({key: count for key, count in reading.items() if not key[2].startswith(_FLAGGED) or key[2] in kept})


@dataclass(slots=True)
class Sums:
    """The sums of one program: readings that ended (`base`), the latest one, and the totals of forgotten tables."""

    base: Counter[Key] = field(default_factory=Counter)
    latest: Counter[Key] = field(default_factory=Counter)
    retired: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By revision and what."""
    gone: set[int] = field(default_factory=set)
    """Forgotten tables whose counters Envoy still has: they are among the retired, and must not count again."""

    def take(self, reading: Counter[Key]) -> bool:
        """Takes a reading. A counter that vanished or fell began anew. True when the sums have changed."""
        self.gone &= {key[0] for key in reading}
        reading = Counter({key: count for key, count in reading.items() if key[0] not in self.gone})
        if reading == self.latest:
            return False
        for key, count in self.latest.items():
            if reading[key] < count:
                self.base[key] += count
        self.latest = reading
        return True

    def lose_open(self) -> None:
        """An Envoy has ended: what was open will never be answered, and its counters begin anew."""
        self.base.update(self.latest)
        self.latest.clear()
        open_requests: Counter[Key] = Counter()
        for (number, revision, what), count in self.base.items():
            if what == STARTED:
                open_requests[number, revision, Outcome.LOST.value] += count
            elif _ends(what):
                open_requests[number, revision, Outcome.LOST.value] -= count
        self.base.update(+open_requests)

    def retire(self, numbers: Collection[int]) -> None:
        """Keeps only the totals of tables that are forgotten."""
        self.gone.update(numbers)
        for part in (self.base, self.latest):
            for key in [key for key in part if key[0] in numbers]:
                if not _is_age(key[2]):
                    self.retired[key[1], key[2]] += part[key]
                del part[key]

    def open_by_table(self) -> Counter[int]:
        """The requests in flight by table number."""
        found: Counter[int] = Counter()
        for part in (self.base, self.latest):
            for (number, _, what), count in part.items():
                if not what.startswith(_BESIDE):
                    found[number] += count if what == STARTED else -count
        return found

    def by_table(self) -> dict[int, dict[str, Counts]]:
        """The counts by table number and revision."""
        rows: dict[int, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
        for part in (self.base, self.latest):
            for (number, revision, what), count in part.items():
                rows[number][revision][what] += count
        return {
            number: {revision: _counts(what) for revision, what in revisions.items()}
            for number, revisions in rows.items()
        }

    def totals(self) -> dict[str, Counts]:
        """The counts by revision, over all tables, without ages."""
        sums: dict[str, Counter[str]] = defaultdict(Counter)
        for part in (self.base, self.latest):
            for (_, revision, what), count in part.items():
                if not _is_age(what):
                    sums[revision][what] += count
        for (revision, what), count in self.retired.items():
            sums[revision][what] += count
        return {revision: _counts(what) for revision, what in sums.items()}

    def bad_answers(self) -> int:
        """Answers that were neither good nor the client's leaving: what a waiting poll is woken by."""
        unremarkable = (STARTED, *SUMS, Outcome.OK, Outcome.CANCELLED)
        return sum(
            count
            for part in (self.base, self.latest)
            for (_, _, what), count in part.items()
            if what not in unremarkable and not _is_age(what)
        )


def _is_age(what: str) -> bool:
    return what.startswith((OLDER, ENDED))


def _ends(what: str) -> bool:
    """True for what counts requests that ended."""
    return what != STARTED and not what.startswith(_BESIDE)


_BESIDE = (OLDER, ENDED, _FLAGGED, *SUMS)
"""What is counted of requests besides their start and end."""


def _counts(what: Mapping[str, int]) -> Counts:
    outcomes = {key: count for key, count in what.items() if count and _ends(key)}
    flags = {key.removeprefix(_FLAGGED): count for key, count in what.items() if count and key.startswith(_FLAGGED)}
    first_slow = len(FAST_EDGES_SECONDS)
    older: dict[int, int] = {}
    reached = 0
    for edge in reversed(range(first_slow, len(EDGES_SECONDS))):
        # A look that came late missed an edge; who was seen at a later one has been at this one too.
        reached = max(reached, what.get(f"{OLDER}.{edge}", 0))
        older[edge] = reached
    for edge in range(first_slow):
        # Answers that ended between the edge and the first of the slow ones, plus all that became older than that.
        older[edge] = what.get(f"{ENDED}.{edge}", 0) + reached
    ages = {edge: older[edge] for edge in sorted(older) if older[edge]}
    sums = (what.get(each, 0) for each in (TOKENS, COST, PRICED))
    return Counts(what.get(STARTED, 0), outcomes, ages, flags, *sums)
