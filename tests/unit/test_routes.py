"""The contract between operator and agents: weights that add up, outcomes that are told apart, values that survive
JSON."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_contract.outcomes import outcome_of
from dspy_contract.routes import (
    FIRST_PORT,
    TOTAL_WEIGHT,
    Backend,
    Pin,
    Port,
    PortTable,
    ReleaseRef,
    Routes,
    Users,
    dump,
    effective_weights,
    load_ports,
    load_routes,
    next_port,
)
from dspy_contract.state import (
    Counts,
    DrawTable,
    GatewayState,
    Interest,
    Poll,
    ProgramState,
    dump_poll,
    dump_state,
    load_poll,
    load_state,
)

names = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, unique=True)


@st.composite
def routes(draw: st.DrawFn) -> Routes:
    """Routes whose desired weights sum to 10,000."""
    revisions = draw(names)
    cuts = sorted(
        draw(st.lists(st.integers(0, TOTAL_WEIGHT), min_size=len(revisions) - 1, max_size=len(revisions) - 1))
    )
    weights = [high - low for low, high in zip([0, *cuts], [*cuts, TOTAL_WEIGHT], strict=True)]
    backends = tuple(Backend(name, weight) for name, weight in zip(revisions, weights, strict=True))
    return Routes("qa", "uid", 1, 60, backends, pin=draw(st.sampled_from([None, Pin("a", "b")])))


@given(routes(), st.sets(st.sampled_from(["a", "b", "c", "d"])))
def test_effective_weights_sum_to_all_and_go_where_answers_come_from(desired: Routes, usable: set[str]) -> None:
    weights = effective_weights(desired, usable)
    assert sum(weights.values()) == TOTAL_WEIGHT
    able = usable & {backend.revision for backend in desired.backends}
    if able:
        assert all(weight == 0 for revision, weight in weights.items() if revision not in able)
    else:
        assert weights == {backend.revision: backend.weight for backend in desired.backends}


@given(routes())
def test_when_everybody_can_answer_weights_are_as_desired(desired: Routes) -> None:
    everybody = {backend.revision for backend in desired.backends}
    assert effective_weights(desired, everybody) == {backend.revision: backend.weight for backend in desired.backends}


def test_stable_takes_what_the_candidate_cannot_and_the_other_way_round() -> None:
    desired = Routes("qa", "uid", 1, 60, (Backend("stable", 9_000), Backend("candidate", 1_000)))
    assert effective_weights(desired, {"stable"}) == {"stable": 10_000, "candidate": 0}
    assert effective_weights(desired, {"candidate"}) == {"stable": 0, "candidate": 10_000}


def test_what_one_of_several_candidates_leaves_is_stables() -> None:
    """Or users of the others would move as well."""
    desired = Routes("qa", "uid", 1, 60, (Backend("stable", 4_000), Backend("a", 3_000), Backend("b", 3_000)))
    assert effective_weights(desired, {"stable", "a"}) == {"stable": 7_000, "a": 3_000, "b": 0}
    assert effective_weights(desired, {"a", "b"}) == {"stable": 0, "a": 5_000, "b": 5_000}


def test_copies_go_to_a_candidate_that_can_answer_and_that_somebody_watches() -> None:
    backends = (Backend("stable", 10_000), Backend("candidate", 0, mirror=2_000))
    desired = Routes("qa", "uid", 1, 60, backends, ReleaseRef(1, "stable", ("candidate",)))
    both, plain = {"stable", "candidate"}, {"stable": 10_000, "candidate": 0}
    assert effective_weights(desired, both) == plain | {"candidate/mirror": 2_000}
    assert effective_weights(desired, both, watched=False) == plain
    assert effective_weights(desired, {"stable"}) == plain
    assert effective_weights(desired, {"candidate"}) == {"stable": 0, "candidate": 10_000}, "it answers for stable"


@pytest.mark.parametrize(
    ("stable", "candidate", "judged", "kept"),
    [
        (10_000, 0, (2_000, 0), (8_000, 0)),
        (9_900, 100, (2_000, 100), (7_900, 0)),
        (7_000, 3_000, (3_000, 3_000), (4_000, 0)),
        (5_000, 5_000, (5_000, 5_000), (0, 0)),
        (1_000, 9_000, (1_000, 9_000), (0, 0)),
        (0, 10_000, (0, 10_000), (0, 0)),
    ],
)
def test_what_is_judged_goes_past_the_cache_while_a_release_moves(
    stable: int, candidate: int, judged: tuple[int, int], kept: tuple[int, int]
) -> None:
    backends = (Backend("stable", stable), Backend("candidate", candidate))
    release = ReleaseRef(1, "stable", ("candidate",))
    desired = Routes("qa", "uid", 1, 60, backends, release, cached=True)
    both = {"stable", "candidate"}
    from_cache = {"stable/cached": kept[0], "candidate/cached": kept[1]}
    expected = dict(zip(("stable", "candidate"), judged, strict=True))
    assert effective_weights(desired, both) == expected | {name: each for name, each in from_cache.items() if each}
    assert sum(effective_weights(desired, both).values()) == TOTAL_WEIGHT
    assert effective_weights(replace(desired, users=Users(header="x-user")), both) == {
        "stable": stable,
        "candidate": candidate,
    }, "users are judged, whose requests all go past it"


def test_nothing_goes_past_a_cache_while_nothing_is_released() -> None:
    desired = Routes("qa", "uid", 1, 60, (Backend("stable", 10_000),), cached=True)
    assert effective_weights(desired, {"stable"}) == {"stable": 0, "stable/cached": 10_000}


def test_copies_are_compared_with_requests_that_went_past_the_cache() -> None:
    backends = (Backend("stable", 10_000), Backend("candidate", 0, mirror=2_000))
    desired = Routes("qa", "uid", 1, 60, backends, ReleaseRef(1, "stable", ("candidate",)), cached=True)
    both = {"stable", "candidate"}
    assert effective_weights(desired, both) == {"stable": 10_000, "candidate": 0, "candidate/mirror": 2_000}


def test_a_revision_without_weight_answers_only_when_nobody_else_can() -> None:
    desired = Routes("qa", "uid", 1, 60, (Backend("stable", 10_000), Backend("refused", 0)))
    assert effective_weights(desired, {"stable", "refused"}) == {"stable": 10_000, "refused": 0}
    assert effective_weights(desired, {"refused"}) == {"stable": 0, "refused": 10_000}


@pytest.mark.parametrize(
    ("header", "code", "flags", "outcome"),
    [
        ("ok", 200, ["-"], "ok"),
        ("program_error", 502, ["-"], "program_error"),
        ("client_error", 422, ["-"], "client_error"),
        ("", 404, ["-"], "client_error"),
        ("", 200, ["-"], "ok"),
        ("", 500, ["-"], "program_error"),
        ("made-up", 500, ["-"], "program_error"),
        ("", 504, ["UT"], "timeout"),
        ("", 503, ["UH"], "connection_failure"),
        ("", 503, ["URX", "UF"], "connection_failure"),
        ("ok", 200, ["UPE"], "connection_failure"),
        ("", 0, ["DC"], "cancelled"),
        ("ok", 200, ["DC"], "cancelled"),
        ("ok", 500, ["-"], "program_error"),
        ("ok", 404, ["-"], "client_error"),
        ("program_error", 413, ["-"], "program_error"),
        ("upstream_error", 200, ["-"], "upstream_error"),
        ("cancelled", 504, ["-"], "cancelled"),
        ("made-up", 200, ["-"], "ok"),
        ("", 0, ["DR"], "cancelled"),
        ("", 504, ["SI"], "timeout"),
        ("", 504, ["-"], "timeout"),
    ],
)
def test_outcomes(header: str, code: int, flags: list[str], outcome: str) -> None:
    assert outcome_of(header, code, flags) == outcome


@pytest.mark.parametrize(
    ("trailer", "code", "flags", "outcome"),
    [
        ("ok", 200, ["-"], "ok"),
        ("program_error", 200, ["-"], "program_error"),
        ("timeout", 200, ["-"], "timeout"),
        ("made-up", 200, ["-"], "ok"),
        ("program_error", 200, ["DC"], "cancelled"),
        ("", 200, ["UPE"], "connection_failure"),
        ("ok", 500, ["-"], "program_error"),
    ],
)
def test_an_outcome_may_be_known_after_the_first_byte(trailer: str, code: int, flags: list[str], outcome: str) -> None:
    assert outcome_of("", code, flags, trailer) == outcome


@given(routes())
def test_routes_survive_json(desired: Routes) -> None:
    assert load_routes(dump(desired)) == desired


def test_states_and_ports_survive_json() -> None:
    counts = {"a": Counts(5, {"ok": 4}, {3: 2})}
    program = ProgramState(3, "hash", True, {"a": 10_000}, counts, (DrawTable(1, 0.5, {"a": 10_000}, counts),))
    state = GatewayState("pod", "incarnation", "token", {"uid": program})
    assert load_state(dump_state(state)) == state
    assert state.programs["uid"].totals["a"].open == 1
    poll = Poll({"uid": Interest(guarding=3, kept=7)}, "token", 1.0)
    assert load_poll(dump_poll(poll)) == poll
    table = PortTable({"uid": Port("qa", FIRST_PORT), "gone": Port("old", FIRST_PORT + 1, 12.0)})
    assert load_ports(dump(table)) == table


def test_ports_rest_before_they_are_given_again() -> None:
    table = PortTable({"gone": Port("old", FIRST_PORT, freed_at=100.0)})
    assert next_port(table, now=150.0, rest_seconds=600) == FIRST_PORT + 1
    assert next_port(table, now=800.0, rest_seconds=600) == FIRST_PORT
