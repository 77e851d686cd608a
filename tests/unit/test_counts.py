"""What a gateway pod counted, over the lives of its Envoy and of Envoy's statistics."""

from __future__ import annotations

from collections import Counter

from dspy_contract.stat_names import STARTED
from dspy_contract.state import EDGES_SECONDS, FAST_EDGES_SECONDS, Counts
from dspy_gateway.counts import Key, Sums, read_statistics, statistics_query


def reading(started: int, ok: int, table: int = 1) -> Counter[Key]:
    return Counter({(table, "a", STARTED): started, (table, "a", "ok"): ok})


def test_readings_of_one_life_replace_each_other() -> None:
    sums = Sums()
    assert sums.take(reading(5, 4))
    assert sums.take(reading(7, 7))
    assert not sums.take(reading(7, 7))
    assert sums.totals() == {"a": Counts(7, {"ok": 7})}


def test_statistics_that_envoy_forgot_are_kept_and_begin_anew() -> None:
    sums = Sums()
    sums.take(reading(10, 10))
    sums.take(Counter())
    sums.take(reading(3, 2))
    assert sums.by_table() == {1: {"a": Counts(13, {"ok": 12})}}


def test_what_a_dead_envoy_had_open_is_lost() -> None:
    sums = Sums()
    sums.take(reading(10, 8))
    sums.lose_open()
    sums.take(reading(10, 10, table=2))
    assert sums.by_table() == {1: {"a": Counts(10, {"ok": 8, "lost": 2})}, 2: {"a": Counts(10, {"ok": 10})}}
    assert sums.by_table()[1]["a"].open == 0


def test_forgotten_tables_stay_in_the_totals() -> None:
    sums = Sums()
    sums.take(reading(5, 5) + reading(2, 1, table=2))
    sums.retire([1])
    assert sums.totals() == {"a": Counts(7, {"ok": 6})}
    sums.take(reading(5, 5) + reading(3, 2, table=2))
    assert sums.totals() == {"a": Counts(8, {"ok": 7})}, "Envoy keeps the counters of a table for a while"
    sums.take(reading(3, 2, table=2))
    assert sums.gone == set()
    assert set(sums.by_table()) == {2}


def test_statistics_are_read_by_name_and_only_predictions_of_this_incarnation_count() -> None:
    answers = "dspy.answers.table.uid-1@inc-7.cluster.qa-1/predict"
    names = {
        "dspy.started.table.uid-1@inc-7.cluster.qa-1/predict": 4,
        f"{answers}.outcome.ok.code.200.flags.-.trailer..said.blocked,too-long.after.blocked,NO": 1,
        f"{answers}.outcome..code.504.flags.UT.trailer..said..after.": 1,
        f"{answers}.outcome.ok.code.500.flags.-.trailer..said..after.": 1,
        f"{answers}.outcome..code.200.flags.-.trailer.upstream_error.said..after.": 1,
        f"dspy.older.table.uid-1@inc-7.cluster.qa-1/predict.edge.{len(FAST_EDGES_SECONDS)}": 2,
        "dspy.ended.table.uid-1@inc-7.cluster.qa-1/predict.edge.0": 1,
        "dspy.answers.table.uid-1@before-7.cluster.qa-1/predict.outcome.ok.code.200.flags.-.trailer..said..after.": 9,
        "dspy.answers.table.other.cluster.qa-1/other.outcome.ok.code.200.flags.-.trailer..said..after.": 9,
        "dspy.answers.table..cluster..outcome..code.404.flags.NR.trailer..said..after.": 9,
        "server.uptime": 12,
    }
    found = read_statistics({"stats": [{"name": name, "value": value} for name, value in names.items()]}, "inc")
    sums = Sums()
    sums.take(found["uid-1"])
    (counts,) = sums.by_table()[7].values()
    assert set(found) == {"uid-1"}
    assert counts.started == 4
    assert counts.outcomes == {"ok": 1, "timeout": 1, "program_error": 1, "upstream_error": 1}
    assert counts.flags == {"blocked": 1, "too-long": 1}, "by header or by trailer, and an answer once"
    assert counts.open == 0
    assert sums.totals()["qa-1"].flags == counts.flags
    assert counts.older[EDGES_SECONDS.index(0.5)] == 2
    assert counts.older[0] == 3


def test_a_look_at_the_ages_that_came_late_loses_no_request() -> None:
    half, two, three = (EDGES_SECONDS.index(seconds) for seconds in (0.5, 2.0, 3.0))
    sums = Sums()
    sums.take(Counter({(1, "a", STARTED): 5, (1, "a", f"older.{half}"): 2, (1, "a", f"older.{three}"): 5}))
    older = sums.by_table()[1]["a"].older
    assert (older[0], older[half], older[two], older[three]) == (5, 5, 5, 5), "Envoy stood still for the edges between"


def test_a_look_at_few_programs_names_them() -> None:
    assert "b%7Ca" not in statistics_query({"b", "a"})
    assert "%28a%7Cb%29%40" in statistics_query({"b", "a"})
    assert "%40" not in statistics_query(None)
