"""What answers to a smoke test mean."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dspy_operator.api.convert import from_dict
from dspy_operator.api.rollout import BlueGreen, Expectation, SmokeRequest, SmokeTest, Strategy, StrategyType
from dspy_operator.domain.smoke import LARGEST_ANSWER_BYTES, Failed, Passed, PreviewAnswer, Unknown, problem_of, verdict

ERROR = {"error": {"outcome": "program_error", "code": "parse", "message": "no field"}}


def request(**expect: dict[str, Any]) -> SmokeRequest:
    return SmokeRequest({}, expect={name: from_dict(each, Expectation) for name, each in expect.items()})


def answer(content: Any, status: int = 200, outcome: str = "ok", revision: str = "qa-2") -> PreviewAnswer:
    return PreviewAnswer(status, outcome, revision, json.dumps(content).encode())


@pytest.mark.parametrize(
    ("expected", "said", "words"),
    [
        ({"equals": "Paris"}, "Paris", ""),
        ({"equals": "Paris"}, "Lyon", '"Paris" was expected'),
        ({"equals": 3}, 3.0, ""),
        ({"equals": 3}, "3", "3 was expected"),
        ({"equals": {"a": [1]}}, {"a": [1]}, ""),
        ({"pattern": "^P.*s$"}, "Paris", ""),
        ({"pattern": "^P.*s$"}, 7, "is not of type"),
        ({"schema": {"type": "array", "maxItems": 1}}, [1, 2], "more than 1 item"),
        ({"pattern": "P", "schema": {"maxLength": 3}}, "Paris", "longer than 3"),
        ({}, None, ""),
    ],
)
def test_an_output_is_what_is_expected_or_not(expected: dict[str, Any], said: Any, words: str) -> None:
    found = verdict(request(answer=expected), answer({"answer": said, "more": 1}), "qa-2")
    if not words:
        assert found == Passed()
    else:
        assert isinstance(found, Failed)
        assert found.words.startswith("answer: ")
        assert words in found.words


def test_an_output_that_is_not_there_is_named() -> None:
    assert verdict(request(answer={}), answer({}), "qa-2") == Failed('"answer" is a required property')


def test_what_is_no_answer_of_the_program_fails() -> None:
    assert verdict(request(), answer(ERROR, 502, "program_error"), "qa-2") == Failed(
        "program_error (502 parse: no field)"
    )
    assert isinstance(verdict(request(), answer({}, 422, "client_error"), "qa-2"), Failed)
    assert isinstance(verdict(request(), PreviewAnswer(200, "ok", "qa-2", b"<html>"), "qa-2"), Failed)
    large = PreviewAnswer(200, "ok", "qa-2", b" " * (LARGEST_ANSWER_BYTES + 1))
    assert verdict(request(), large, "qa-2") == Failed("the answer is larger than 256 KiB")
    deep = PreviewAnswer(200, "ok", "qa-2", b"[" * 100_000)
    assert verdict(request(), deep, "qa-2") == Failed("the answer is no JSON")


@pytest.mark.parametrize("outcome", ["upstream_error", "overloaded"])
def test_a_provider_and_full_pods_say_nothing_of_a_candidate(outcome: str) -> None:
    assert isinstance(verdict(request(), answer({}, 503, outcome), "qa-2"), Unknown)


def test_what_the_gateway_says_itself_is_no_answer_but_its_time_out() -> None:
    """Envoy puts the revision on its own answers as well."""
    for status in (502, 503):
        assert isinstance(verdict(request(), answer({}, status, ""), "qa-2"), Unknown)
    assert isinstance(verdict(request(), answer({}, 504, ""), "qa-2"), Failed)


def test_what_nests_deeply_fails_and_raises_nothing() -> None:
    deep: Any = 1
    for _ in range(300):
        deep = [deep]
    assert isinstance(verdict(request(answer={"equals": "x"}), answer({"answer": deep}), "qa-2"), Failed)


def test_only_the_candidates_own_answer_counts() -> None:
    assert isinstance(verdict(request(), answer({}, 503, "", ""), "qa-2"), Unknown)
    assert isinstance(verdict(request(), answer({}, revision="qa-1"), "qa-2"), Unknown)


def strategy(*requests: SmokeRequest) -> Strategy:
    return Strategy(StrategyType.BLUE_GREEN, blue_green=BlueGreen(SmokeTest(requests)))


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        ({"pattern": "("}, "requests[0].expect.answer: "),
        ({"pattern": "(?=a)"}, "requests[0].expect.answer: "),
        ({"pattern": "((a{1000}){1000}){100}"}, "requests[0].expect.answer: "),
        ({"schema": {"type": "nothing"}}, "requests[0].expect.answer: "),
        ({"schema": {"items": {"$ref": "#"}}}, "expect.answer.schema: $ref is not allowed here"),
        ({"schema": {"anyOf": [{"$dynamicRef": "#a"}]}}, "$dynamicRef is not allowed here"),
        ({"equals": "x" * 70_000}, "larger than 64 KiB"),
        ({"schema": {"patternProperties": {f"a{number}": {} for number in range(51)}}}, "more than 50 patterns"),
        ({"pattern": r"(?i)\pL{100}\pL{100}"}, "requests[0].expect.answer: "),
    ],
)
def test_what_cannot_be_carried_out_is_told_before(expected: dict[str, Any], words: str) -> None:
    assert words in problem_of(strategy(request(answer=expected)))


def test_a_smoke_test_that_can_be_carried_out_has_no_problem() -> None:
    assert problem_of(strategy(request(answer={"pattern": "a+", "schema": {"type": "string"}}), request())) == ""
    assert problem_of(Strategy(StrategyType.CANARY)) == ""


def test_what_an_author_may_write_takes_bounded_time() -> None:
    hard = request(answer={"pattern": "^(a+)+$"})
    assert isinstance(verdict(hard, answer({"answer": "a" * 200_000 + "b"}), "qa-2"), Failed)
    many = {"schema": {"items": {"anyOf": [{"pattern": f"^{number}a{{1,50}}$"} for number in range(500)]}}}
    found = verdict(request(answer=many), answer({"answer": ["a" * 40] * 5_000}), "qa-2")
    assert found == Failed("the answer is too large for expectations that are so large")
