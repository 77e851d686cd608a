"""Which streams a policy asks for, and what they say of draws."""

from __future__ import annotations

import pytest

from dspy_contract.state import Counts, DrawTable, GatewayState, ProgramState
from dspy_operator.api.rollout import Analysis, Stream
from dspy_operator.domain.analysis.evidence import Evidence, Look, accumulate
from dspy_operator.domain.analysis.judge import judge, judge_stream
from dspy_operator.domain.analysis.streams import BUILT_IN, streams_of, with_fallbacks
from dspy_operator.domain.analysis.verdict import Side, Verdict

OWN = Stream("guarded", flag="blocked")


def shares(*given: Stream) -> dict[str, float]:
    return {stream.name: round(stream.share, 4) for stream in streams_of(given)}


def evidence(stable: Counts, candidate: Counts) -> Evidence:
    table = DrawTable(1, 1.0, {"old": 5_000, "new": 5_000}, {"old": stable, "new": candidate}, release=1)
    state = GatewayState("a", "i", "", {"uid": ProgramState(tables=(table,))})
    return accumulate(Evidence(), {"a": state}, Look("uid", "old", "new", 1, 0, 10.0))


def flagged(requests: int, flags: int) -> Counts:
    return Counts(requests, {"ok": requests}, flags={"blocked": flags})


def test_without_a_word_of_the_policy_the_built_in_ones_are_judged() -> None:
    assert streams_of(()) == BUILT_IN


def test_ones_own_share_what_is_kept_for_them() -> None:
    found = shares(OWN, Stream("long", flag="too-long"))
    assert found == {"failed": 0.5, "refused": 0.1, "left": 0.15, "slow": 0.2, "guarded": 0.025, "long": 0.025}


def test_what_stands_in_for_models_is_counted_and_costs_no_alpha() -> None:
    (told,) = with_fallbacks(())
    assert (told.flag, told.dry_run) == ("fallback", True)
    assert shares(OWN, told)["guarded"] == shares(OWN)["guarded"]
    judged = Stream("own-words", flag="fallback")
    assert with_fallbacks((judged,)) == (judged,), "the policy's word goes before"


def test_shares_are_scaled_down_to_one_and_never_up() -> None:
    assert sum(shares(Stream("guarded", flag="blocked", share_percent=90)).values()) == pytest.approx(1.0, abs=1e-3)
    assert shares(Stream("left", enabled=False)) == {"failed": 0.5, "refused": 0.1, "slow": 0.2}
    assert shares(Stream("failed", share_percent=10))["failed"] == 0.1


def test_what_is_tried_takes_no_share_of_the_others() -> None:
    tried = Stream("guarded", flag="blocked", share_percent=90, dry_run=True)
    assert shares(tried)["failed"] == 0.5


def test_flags_decide_like_outcomes() -> None:
    seen = evidence(flagged(200, 2), flagged(200, 60))
    assert judge(seen, Analysis()).verdict is Verdict.UNDECIDED
    judged = judge(seen, Analysis(streams=(OWN,)))
    assert (judged.verdict, judged.stream, judged.reason) == (Verdict.WORSE, "guarded", "FlaggedMoreOften")
    assert judged.message == (
        "The candidate is flagged blocked more often: 60 of 200 requests of the candidate against 2 of 200 of stable"
    )


def test_a_stream_alone_tells_both_sides() -> None:
    seen, tried = evidence(flagged(200, 2), flagged(200, 60)), Analysis(streams=(Stream("g", "blocked", dry_run=True),))
    assert judge(seen, tried).verdict is Verdict.UNDECIDED
    (found,) = [judge_stream(seen, tried, each) for each in streams_of(tried.streams) if each.name == "g"]
    assert (found.verdict, found.stable, found.candidate) == (Verdict.WORSE, Side(200, 2), Side(200, 60))


def test_with_nothing_judged_nothing_is_worse_and_nothing_is_shown() -> None:
    off = Analysis(streams=tuple(Stream(each.name, enabled=False) for each in BUILT_IN))
    assert judge(evidence(flagged(200, 0), Counts(200, {"program_error": 200})), off).verdict is Verdict.UNDECIDED
