"""What a gateway pod counted, over the lives of its Envoy."""

from __future__ import annotations

from collections import Counter

from dspy_contract.state import RevisionCounts
from dspy_gateway.counts import STARTED, Counts, Reading, read_statistics

HERE = {"uid"}


def reading(uptime: int, started: int, ok: int) -> Reading:
    return Reading(uptime, Counter({("uid", "a", STARTED): started, ("uid", "a", "ok"): ok}))


def test_readings_of_one_life_replace_each_other() -> None:
    counts = Counts()
    assert counts.take(reading(1, 5, 4), HERE)
    assert counts.take(reading(2, 7, 7), HERE)
    assert not counts.take(reading(3, 7, 7), HERE)
    assert counts.by_program() == {"uid": {"a": RevisionCounts(7, {"ok": 7})}}


def test_a_new_life_adds_to_the_old_one_and_what_was_in_flight_is_over() -> None:
    counts = Counts()
    counts.take(reading(60, 10, 8), HERE)
    counts.take(reading(1, 10, 10), HERE)
    assert counts.by_program() == {"uid": {"a": RevisionCounts(20, {"ok": 18, "cancelled": 2})}}
    assert counts.by_program()["uid"]["a"].active == 0


def test_programs_that_are_gone_are_forgotten() -> None:
    counts = Counts()
    counts.take(reading(1, 5, 5), HERE)
    counts.take(reading(2, 5, 5), set())
    assert counts.by_program() == {}


def test_statistics_are_read_by_name_and_only_predictions_count() -> None:
    names = {
        "dspy.uid.started.cluster.qa-1/predict": 3,
        "dspy.uid.answers.cluster.qa-1/predict.outcome.ok.code.200.flags.-": 1,
        "dspy.uid.answers.cluster.qa-1/predict.outcome..code.504.flags.UT": 1,
        "dspy.uid.answers.cluster.qa-1/other.outcome.ok.code.200.flags.-": 9,
        "dspy.uid.answers.cluster..outcome..code.404.flags.NR": 9,
        "server.uptime": 12,
    }
    found = read_statistics({"stats": [{"name": name, "value": value} for name, value in names.items()]})
    assert found.uptime_seconds == 12
    assert found.counters == {("uid", "qa-1", STARTED): 3, ("uid", "qa-1", "ok"): 1, ("uid", "qa-1", "timeout"): 1}
