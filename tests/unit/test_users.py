"""Users who are drawn: their places, what gateways tell of them, and what is made of it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_contract.routes import TOTAL_WEIGHT, Conversations, Routes, Users, ranges
from dspy_contract.state import Met, UserLog
from dspy_gateway.access_log import UserAnswer
from dspy_gateway.drawn import Drawn
from dspy_gateway.tables import Entry
from dspy_gateway.users import MOST_TOLD, ReleaseUsers, whose
from dspy_operator.api.rollout import Analysis, Stream
from dspy_operator.domain.analysis.comparison import Result, compare
from dspy_operator.domain.analysis.draws import Draws
from dspy_operator.domain.analysis.evidence import Evidence
from dspy_operator.domain.analysis.interval import difference
from dspy_operator.domain.analysis.judge import LEAST_USERS, judge_stream, judge_worse, user_draws
from dspy_operator.domain.analysis.streams import FAILED, SLOW
from dspy_operator.domain.analysis.users import LATE_SECONDS, Group, Sample, UserTotals
from dspy_operator.domain.release import comparing

STABLE, CANDIDATE = "old", "new"
ALPHA = 0.05


def places(weights: Mapping[str, int], users: Users, candidates: tuple[str, ...] = (CANDIDATE,)) -> list[str]:
    """The revision at each of the 10,000 places."""
    laid = ranges(weights, candidates, users)
    return [revision for revision, width in laid for _ in range(width)]


@given(weight=st.integers(0, TOTAL_WEIGHT), more=st.integers(0, TOTAL_WEIGHT), start=st.integers(0, TOTAL_WEIGHT))
def test_a_candidate_that_gains_weight_moves_nobody_who_need_not(weight: int, more: int, start: int) -> None:
    less, greater = sorted((weight, more))
    before = places({STABLE: TOTAL_WEIGHT - less, CANDIDATE: less}, Users(start=start))
    after = places({STABLE: TOTAL_WEIGHT - greater, CANDIDATE: greater}, Users(start=start))
    assert len(before) == len(after) == TOTAL_WEIGHT
    assert before.count(CANDIDATE) == less
    assert all(new == CANDIDATE for old, new in zip(before, after, strict=True) if old == CANDIDATE)


@given(share=st.integers(1, 2_500), start=st.integers(0, TOTAL_WEIGHT), gone=st.sets(st.sampled_from("abc")))
def test_of_several_candidates_none_moves_when_others_go(share: int, start: int, gone: set[str]) -> None:
    """Their users are stable's then, and one that takes over keeps its own."""
    users = Users(
        start=start,
        starts=tuple((name, (start + number * share) % TOTAL_WEIGHT) for name, number in (("b", 1), ("c", 2))),
    )
    before = places({STABLE: TOTAL_WEIGHT - 3 * share, **dict.fromkeys("abc", share)}, users, tuple("abc"))
    left = {name: 0 if name in gone else share for name in "abc"}
    after = places({STABLE: TOTAL_WEIGHT - sum(left.values()), **left}, users, tuple("abc"))
    assert [STABLE if each in gone else each for each in before] == after
    winner = places({STABLE: 500, "a": 0, "b": 9_500, "c": 0}, users, tuple("abc"))
    assert winner.count("b") == 9_500
    assert all(new == "b" for old, new in zip(before, winner, strict=True) if old == "b")


def answer(outcome: str = "ok", seconds: float = 0.3, flags: frozenset[str] = frozenset()) -> UserAnswer:
    return UserAnswer("u", "i", 1, CANDIDATE, "", "", outcome, flags, seconds)


def table(**fields: object) -> Entry:
    entry = Entry(1, 0.0, {STABLE: 5_000, CANDIDATE: 5_000}, 7, 2, warm_seconds=60.0, judged=True, changed_at=0.0)
    return replace(entry, **fields)  # type: ignore[arg-type]


def test_only_what_is_new_for_a_user_is_told() -> None:
    log = ReleaseUsers("u", 7, 100.0)
    slow, cold = answer(seconds=1.1), table(warm_seconds=3.0)
    assert log.take(answer(seconds=1.1), "ann", cold, (), 100.0)
    assert not log.take(answer(), "ann", cold, (), 101.0)
    assert log.take(answer(), "ann", table(), (), 102.0), "the first that tells how fast it is"
    assert not log.take(answer(), "ann", table(), (), 102.5)
    assert log.take(slow, "ann", table(), (), 103.0)
    assert not log.take(answer(flags=frozenset({"unasked"})), "ann", table(), ("blocked",), 104.0)
    assert log.take(answer(flags=frozenset({"blocked", "unasked"})), "ann", table(), ("blocked",), 105.0)
    assert log.take(answer("program_error"), "ann", table(), (), 106.0)
    assert log.take(answer(), "bob", table(), (), 107.0)
    told = log.told(("", 0), 110.0)
    assert [(met.at, met.outcome, met.flags, met.edge) for met in told.met] == [
        (0.0, "ok", (), -1),
        (2.0, "ok", (), 3),
        (3.0, "ok", (), 7),
        (5.0, "ok", ("blocked",), 7),
        (6.0, "program_error", (), 7),
        (7.0, "ok", (), 3),
    ]
    assert {met.weight for met in told.met} == {5_000}
    assert "ann" not in str(told)
    assert log.told((told.id, 4), 110.0).met == told.met[4:]
    assert log.told(("another", 4), 110.0).met == told.met, "one of another log has heard nothing of this"


def test_who_could_not_be_drawn_takes_no_place_in_the_log() -> None:
    log, all_at_stable = ReleaseUsers("u", 7, 0.0), table(weights={STABLE: 10_000, CANDIDATE: 0})
    at_stable = replace(answer("program_error"), revision=STABLE)
    assert not log.take(at_stable, "ann", all_at_stable, (), 1.0)
    assert log.take(answer(), "ann", table(), (), 2.0)
    assert log.take(at_stable, "ann", all_at_stable, (), 3.0), "a user who was moved"
    assert log.told(("", 0), 4.0).length == 2


def test_a_user_is_known_across_pods_and_not_across_releases() -> None:
    first, second, later = (ReleaseUsers("u", release, 0.0) for release in (7, 7, 8))
    for log in (first, second, later):
        log.take(answer(), "ann", table(), (), 1.0)
    hashes = [log.met[0].user for log in (first, second, later)]
    assert hashes[0] == hashes[1] != hashes[2]
    keyed = ReleaseUsers("u", 7, 0.0, secret=b"of the namespace" * 20)
    keyed.take(answer(), "ann", table(), (), 1.0)
    assert keyed.met[0].user != hashes[0], "who does not know the secret cannot try"


@pytest.mark.parametrize(
    ("told", "cookies", "user"),
    [
        ("header ann", "dspy-user=x", "header ann"),
        ("header", "", ""),
        ("cookie", "a=1; dspy-user=x; b=2", "cookie x"),
        ("cookie", 'dspy-user="x"', "cookie x"),
        ("cookie", "not-dspy-user=x", ""),
        ("new x", "", "cookie x"),
        ("", "dspy-user=x", ""),
    ],
)
def test_the_first_request_of_a_cookie_is_of_the_same_user(told: str, cookies: str, user: str) -> None:
    routes = Routes("qa", "u", 1, 60, (), users=Users("x-user-id", "dspy-user"))
    found = whose(replace(answer(), told=told, cookies=cookies), routes, table())
    assert found == ((user, Drawn(CANDIDATE, 5_000, 2, 7)) if user else None)


@pytest.mark.parametrize(
    ("told", "cookies", "found"),
    [
        ("new x", "", ("x", Drawn(CANDIDATE, 5_000, 2, 7))),
        ("header old.9500.1.6.x", "", ("x", Drawn(STABLE, 9_500, 1, 6, by_token=True))),
        ("cookie", "a=b; chat=new.500.2.7.x; c=d", ("x", Drawn(CANDIDATE, 500, 2, 7, by_token=True))),
        ("header new.500.2.7.x y", "", None),
        ("header new.500.7.x", "", None),
        ("cookie", "chat=new", None),
        ("new", "", None),
    ],
)
def test_a_token_says_how_a_conversation_was_drawn(told: str, cookies: str, found: tuple[str, Drawn] | None) -> None:
    routes = Routes("qa", "u", 1, 60, (), conversations=Conversations("x-chat", "chat", 60))
    assert whose(replace(answer(), told=told, cookies=cookies), routes, table()) == found


def test_a_conversation_counts_where_it_was_drawn_and_with_that_weight() -> None:
    """Also where the pod hears of it under other weights, or after the guard has moved it."""
    log, lowered = ReleaseUsers("u", 7, 0.0), table(weights={STABLE: 10_000, CANDIDATE: 0})
    at_stable = replace(answer("program_error"), revision=STABLE)
    drawn = Drawn(CANDIDATE, 500, 0, 7, by_token=True)
    assert log.take(at_stable, "x", lowered, (), 1.0, drawn)
    assert [(each.revision, each.weight, each.later) for each in log.met] == [(CANDIDATE, 500, True)]
    assert not log.take(at_stable, "y", table(), (), 1.0, Drawn(STABLE, 10_000, 0, 7)), "nobody could draw otherwise"


def met(user: int, revision: str, outcome: str = "ok", at: float = 0.0, weight: int = 5_000, **fields: int) -> Met:
    return Met(f"{user:016x}", at, 0.1, revision, weight, 0, outcome, (), fields.get("edge", -1))


def log_of(*events: Met, id: str = "a", first: int = 0, age: float = 0.0) -> UserLog:
    return UserLog(id, 7, age, first, first + len(events), events)


def test_a_conversation_counts_once_its_beginning_is_heard_of() -> None:
    """Clients may send any token: what none of our draws gave counts for nothing, and has no weight of its choice."""
    sample = Sample(7)
    forged = replace(met(1, CANDIDATE, "program_error", at=2.0, weight=1), later=True)
    sample.take("p", log_of(forged), 10.0)
    assert sample.totals(CANDIDATE, 10.0).number == 0
    sample.take("q", log_of(met(1, STABLE, at=1.0, weight=9_000)), 11.0)
    (group,) = sample.totals(CANDIDATE, 11.0).groups
    assert not group.of_candidate
    assert group.weight == pytest.approx(0.1)
    assert group.outcomes == {"ok", "program_error"}, "another pod heard the rest of it first"


def test_a_candidate_that_turns_bad_is_found_by_those_who_come_then() -> None:
    """Of the old ones on both sides nearly all have met something bad before."""
    sample, events = Sample(7), []
    for user in range(1_800):
        began, side = user * 2.0, CANDIDATE if user % 10 == 0 else STABLE
        weight = 1_000 if side == CANDIDATE else 9_000
        bad = began < 3_000 or side == CANDIDATE or user % 30 == 1
        events.append(met(user, side, "program_error" if bad else "ok", at=began, weight=weight))
    sample.take("p", log_of(*events, age=3_600.0), 3_600.0)
    evidence = replace(Evidence(), users=sample.totals(CANDIDATE, 3_600.0))
    assert judge_worse(evidence, Analysis()) is not None


def test_a_user_counts_once_whoever_tells_of_it() -> None:
    sample = Sample(7)
    events = [met(1, CANDIDATE), met(1, CANDIDATE, "timeout"), met(2, STABLE)]
    sample.take("p", log_of(*events), 10.0)
    sample.take("p", log_of(*events), 11.0)
    sample.take("q", log_of(met(1, CANDIDATE, "timeout"), id="b"), 12.0)
    totals = sample.totals(CANDIDATE, 12.0)
    assert totals.number == 2
    assert [(group.of_candidate, group.outcomes) for group in totals.groups if group.of_candidate] == [
        (True, frozenset({"ok", "timeout"}))
    ]
    assert sample.heard("p") == ("a", 3)
    sample.take("p", log_of(met(3, STABLE), first=9), 13.0)
    assert sample.heard("p") == ("a", 3), "nothing is skipped"


def test_who_is_moved_still_counts_where_it_was_drawn() -> None:
    """Else a candidate that sends its users away would gain by it, and stable's would be watched for longer."""
    sample = Sample(7)
    sample.take("p", log_of(met(1, CANDIDATE, at=5.0), met(1, STABLE, "timeout", at=4.95, weight=10_000)), 10.0)
    assert sample.totals(CANDIDATE, 10.0).moved == 0, "what began before the user was drawn is no move"
    sample.take("p", log_of(met(1, STABLE, "timeout", at=9.0), met(1, CANDIDATE, "timeout", at=9.5), first=2), 10.0)
    sample.take("p", log_of(met(2, STABLE, weight=10_000), first=4), 10.0)
    totals = sample.totals(CANDIDATE, 10.0)
    assert totals.moved == 1
    assert totals.groups == (Group(True, 0.5, 0, frozenset({"ok", "timeout"}), frozenset(), -1, 1),)


def test_of_several_candidates_each_is_compared_with_stable_alone() -> None:
    """By their two shares of the draw; nobody is compared who could not have been drawn for both."""
    three = {STABLE: 4_000, CANDIDATE: 3_000, "third": 3_000}
    log, sample = ReleaseUsers("u", 7, 0.0, measure="cost", several=True), Sample(7)
    for user, (revision, weights) in enumerate(
        [(STABLE, three), (CANDIDATE, three), ("third", three), (STABLE, {STABLE: 7_000, "third": 3_000})]
    ):
        log.take(replace(costing(1.0), revision=revision), str(user), table(weights=weights), (), 1.0)
    sample.take("p", log.told(("", 0), 2.0), 2.0)
    totals = sample.totals(CANDIDATE, 100.0, 30.0, stable=STABLE)
    sides = [(each.of_candidate, each.weight) for each in totals.groups]
    assert sides == [(False, 3 / 7), (True, 3 / 7)]
    assert sorted((each.of_candidate, each.users) for each in totals.valued) == [(False, 1), (True, 1)]


def test_users_are_compared_at_equal_age() -> None:
    sample = Sample(7)
    events = [met(1, CANDIDATE, at=0.0), met(1, CANDIDATE, "timeout", at=50.0), met(2, STABLE, at=55.0)]
    sample.take("p", log_of(*events, age=60.0), 1_060.0)
    assert sample.totals(CANDIDATE, 1_030.0 + LATE_SECONDS - 1, 30.0).compared == ()
    compared = sample.totals(CANDIDATE, 1_060.0, 30.0).compared
    assert compared == (Group(True, 0.5, 0, frozenset({"ok"}), frozenset(), -1, 1, 900.0),), "not what it met later"
    assert sum(group.users for group in sample.totals(CANDIDATE, 1_100.0, 30.0).compared) == 2
    sample.take("q", log_of(met(1, CANDIDATE, "program_error", at=20.0), id="b", age=120.0), 1_120.0)
    late = sample.totals(CANDIDATE, 1_120.0, 30.0).compared
    assert frozenset({"ok", "program_error"}) in {group.outcomes for group in late}, "also what was told late"


def test_an_answer_that_takes_long_is_of_the_time_in_which_it_began() -> None:
    """Or a candidate that hangs would have no bad answer in time."""
    sample = Sample(7)
    hangs = replace(met(1, CANDIDATE, "timeout", at=61.0), seconds=61.0)
    sample.take("p", log_of(hangs, age=61.0), 1_061.0)
    assert sample.totals(CANDIDATE, 1_030.0 + LATE_SECONDS, 30.0, late_seconds=61.0).compared == ()
    (group,) = sample.totals(CANDIDATE, 1_101.0, 30.0, late_seconds=61.0).compared
    assert group.outcomes == {"timeout"}


def test_a_sample_of_very_many_users_is_halved_and_has_newcomers() -> None:
    log, sample = ReleaseUsers("u", 7, 0.0), Sample(7)
    for user in range(30_000):
        log.take(answer("timeout" if user >= 25_000 else "ok"), str(user), table(), (), 1.0)
        if user % 500 == 0:
            sample.take("p", log.told(sample.heard("p"), 2.0), 2.0)
    while not sample.is_complete(["p"]) or sample.heard("p")[1] < log.told(("", 0), 2.0).length:
        sample.take("p", log.told(sample.heard("p"), 2.0), 2.0)
    totals = sample.totals(CANDIDATE, 2.0)
    assert totals.halvings == 1
    assert 14_000 < totals.number < 16_000
    late = sum(group.users for group in totals.groups if "timeout" in group.outcomes)
    assert 2_200 < late < 2_800, "half of the newcomers"


def test_what_is_told_again_counts_once() -> None:
    sample, log = Sample(7), ReleaseUsers("u", 7, 0.0)
    for outcome in ("ok", "timeout"):
        log.take(answer(outcome), "ann", table(), (), 1.0)
    for _ in range(3):
        log.id += "x"
        sample.take("p", log.told(sample.heard("p"), 2.0), 2.0)
    assert [len(user.met) for user in sample._users.values()] == [2]


def test_a_log_is_told_in_parts() -> None:
    log, sample = ReleaseUsers("u", 7, 0.0), Sample(7)
    for user in range(2 * MOST_TOLD + 5):
        log.take(answer(), str(user), table(), (), 1.0)
    for _ in range(3):
        sample.take("p", log.told(sample.heard("p"), 2.0), 2.0)
        assert sample.is_complete(["q"])
        assert sample.is_complete(["p"]) is (sample.heard("p")[1] > 2 * MOST_TOLD)
    assert sample.totals(CANDIDATE, 2.0).number == 2 * MOST_TOLD + 5


def costing(cost: float | None) -> UserAnswer:
    return replace(answer(), measures={"tokens": 1.0} if cost is None else {"tokens": 1.0, "cost": cost})


def test_what_a_users_answers_measure_is_told_ever_more_rarely() -> None:
    """Of those that tell it; and only what is asked for."""
    log = ReleaseUsers("u", 7, 0.0, measure="cost")
    for number in range(20):
        log.take(costing(float(number)), "ann", table(), (), float(number))
        log.take(costing(None), "ann", table(), (), float(number))
    assert [(each.measured, each.measure) for each in log.met if each.measured] == [
        (1, 0.0),
        (2, 1.0),
        (4, 6.0),
        (8, 28.0),
        (16, 120.0),
    ]
    unasked = ReleaseUsers("u", 7, 0.0)
    unasked.take(costing(1.0), "ann", table(), (), 0.0)
    assert [each.measured for each in unasked.met] == [0]


def values_of(sample: Sample, now: float = 1_000.0, exposure: float = 30.0) -> dict[float, int]:
    return {each.value: each.users for each in sample.totals(CANDIDATE, now, exposure).valued}


def test_a_users_value_is_the_mean_over_all_gateways_in_its_time() -> None:
    sample = Sample(7)
    logs = {pod: ReleaseUsers("u", 7, 0.0, measure="cost") for pod in "pq"}
    for at, pod, cost in ((1.0, "p", 2.0), (2.0, "q", 5.0), (3.0, "p", 6.0), (3.5, "q", 3.0), (50.0, "p", 1e6)):
        logs[pod].take(costing(cost), "ann", table(), (), at)
    logs["p"].take(replace(costing(8.0), revision=STABLE), "bob", table(), (), 3.0)
    logs["p"].take(costing(None), "cid", table(), (), 3.0)
    for pod, log in logs.items():
        sample.take(pod, log.told(("", 0), 60.0), 60.0)
    assert values_of(sample, 35.0) == {}, "nobody has been there for long enough"
    assert values_of(sample) == {4.0: 1, 8.0: 1}, "and nobody is compared who told nothing"
    logs["p"].id += "x"
    sample.take("p", logs["p"].told(("", 0), 60.0), 60.0)
    assert values_of(sample) == {4.0: 1, 8.0: 1}, "what is told again counts once"


def test_an_agent_that_begins_anew_adds_to_what_was_told() -> None:
    sample = Sample(7)
    for cost in (2.0, 4.0):
        log = ReleaseUsers("u", 7, 0.0, measure="cost")
        log.take(costing(cost), "ann", table(), (), 1.0)
        sample.take("p", log.told(("", 0), 2.0), 2.0)
    assert values_of(sample) == {3.0: 1}


def test_who_leaves_the_sample_takes_its_value_along() -> None:
    log, sample = ReleaseUsers("u", 7, 0.0, measure="cost"), Sample(7)
    for user in range(1_000):
        log.take(costing(2.0), str(user), table(), (), 1.0)
    sample.take("p", log.told(("", 0), 2.0), 2.0)
    assert values_of(sample) == {2.0: 1_000}
    log._halve()
    sample.take("p", log.told(sample.heard("p"), 2.0), 2.0)
    totals = sample.totals(CANDIDATE, 1_000.0, 30.0)
    assert 400 < totals.grown == sum(each.users for each in totals.valued) < 600


def evidence_of(stable: int, candidate: int, stable_bad: int, candidate_bad: int, **met: int) -> Evidence:
    edge, bad = met.get("edge", -1), frozenset({"ok"} if "edge" in met else {"timeout"})
    groups = [
        Group(of_candidate, 0.5, 0, outcomes, frozenset(), edge if is_bad else -1, users)
        for of_candidate, all_users, bad_users in ((False, stable, stable_bad), (True, candidate, candidate_bad))
        for outcomes, is_bad, users in ((frozenset({"ok"}), False, all_users - bad_users), (bad, True, bad_users))
    ]
    return Evidence(users=UserTotals(tuple(groups), tuple(groups)), bounds=(1, 2, 5, 7, 9))


def test_the_guard_judges_by_users() -> None:
    worse = judge_worse(evidence_of(100, 100, 1, 40), Analysis())
    assert worse is not None
    assert worse.message.endswith("40 of 100 users of the candidate against 1 of 100 of stable")
    assert judge_worse(evidence_of(100, 100, 1, 1), Analysis()) is None
    few = LEAST_USERS // 2 - 1
    assert judge_worse(evidence_of(few, few, 0, few), Analysis()) is None, "too few to say anything"
    slower = judge_worse(evidence_of(100, 100, 1, 60, edge=6), Analysis())
    assert slower is not None
    assert "60 of 100 users of the candidate took over" in slower.message
    assert user_draws(evidence_of(100, 100, 0, 60, edge=5), SLOW) == [Draws(0.5, 100, 100, 0, 0)], "the tolerance"
    assert user_draws(evidence_of(100, 100, 0, 60, edge=5), SLOW, compared=True) == [Draws(0.5, 100, 100, 0, 60)]
    assert judge_stream(evidence_of(100, 90, 1, 2), Analysis(), FAILED).candidate_users.requests == 90


@pytest.mark.parametrize(
    ("counts", "result"),
    [((500, 500, 100, 20), Result.WIN), ((500, 500, 20, 100), Result.LOSS), ((500, 500, 20, 21), Result.UNDECIDED)],
)
def test_a_comparison_says_which_is_better(counts: tuple[int, int, int, int], result: Result) -> None:
    switched_off = Analysis(streams=(Stream("failed", enabled=False),))
    compared = compare(evidence_of(*counts), switched_off, "failed", ALPHA)
    assert compared.result is result
    assert compared.interval.low <= compared.interval.seen <= compared.interval.high


@given(
    weight=st.floats(0.01, 0.99),
    counts=st.tuples(*[st.integers(0, 500)] * 4),
)
def test_an_interval_holds_what_was_seen_and_nothing_impossible(
    weight: float, counts: tuple[int, int, int, int]
) -> None:
    good_of_stable, good_of_candidate, stable_bad, candidate_bad = counts
    draws = Draws(weight, good_of_stable + stable_bad, good_of_candidate + candidate_bad, stable_bad, candidate_bad)
    interval = difference((draws,), ALPHA)
    assert -1 <= interval.low <= interval.high <= 1


def test_an_interval_that_is_watched_all_the_time_leaves_the_truth_out_seldom() -> None:
    """At 95 %, looked at after every 50 users, at several shares and weights; by luck alone 5 of 100 would."""
    chance = random.Random(1)
    outside = sum(_leaves_out(chance, *case) for case in ((0.05, 0.03, 0.3), (0.2, 0.2, 0.5), (0.01, 0.1, 0.1)) * 34)
    assert outside <= 5


def _leaves_out(chance: random.Random, stable: float, candidate: float, weight: float) -> bool:
    counts = [0, 0, 0, 0]
    for number in range(1, 1_501):
        drawn = chance.random() < weight
        counts[drawn] += 1
        counts[2 + drawn] += chance.random() < (candidate if drawn else stable)
        if number % 50 == 0:
            interval = difference((Draws(weight, *counts),), ALPHA)
            if not interval.low <= candidate - stable <= interval.high:
                return True
    return False


def standing(result: Result, gain: float = 0.0) -> comparing.Standing:
    return comparing.Standing(result, "", gain)


@pytest.mark.parametrize(
    ("results", "chosen"),
    [
        ({"a": Result.LOSS, "b": Result.TIE}, ("b", Result.TIE)),
        ({"a": Result.LOSS, "b": Result.LOSS}, ("a", Result.LOSS)),
        ({"a": Result.TIE, "b": Result.WIN}, ("b", Result.WIN)),
    ],
)
def test_who_has_lost_is_not_chosen(results: dict[str, Result], chosen: tuple[str, Result]) -> None:
    assert comparing._chosen({name: standing(result) for name, result in results.items()}) == chosen


def test_the_best_of_those_who_won_is_chosen() -> None:
    won = {"a": standing(Result.WIN, 0.1), "b": standing(Result.WIN, 0.15), "c": standing(Result.TIE, 0.3)}
    assert comparing._chosen(won) == ("b", Result.WIN)
