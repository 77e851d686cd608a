"""What programs take and return, whatever their fields are called and however they are annotated."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import dspy
import pytest
from pydantic import BaseModel, ValidationError

from dspy_runtime import endings
from dspy_runtime.answers import answer_fields, answer_json
from dspy_runtime.endings import UnfitInputError
from dspy_runtime.failures import SchemaError
from dspy_runtime.schema import Schema
from dspy_runtime.schema import derive as derive_with
from dspy_runtime.settings import SchemaSettings


def derive(program: Any, **given: dict[str, Any]) -> Schema:
    """The schema of a program, with what `serving.schema` gives."""
    return derive_with(program, SchemaSettings(**given))


def program(forward: Callable[..., Any]) -> Any:
    """A program with that forward."""
    return type("Program", (dspy.Module,), {"forward": forward})()


def named(self: Any, question: str, limit: int = 3, **more: Any) -> Any: ...
def open_ended(self: Any, **fields: Any) -> Any: ...
def shadowing(self: Any, copy: str, model_config: int, _q: str = "", json: Literal["a", "b"] = "a") -> Any: ...
def unknown(self: Any, ticket: Ticket, urgent: bool = False) -> Any: ...  # type: ignore[name-defined]  # noqa: F821
def bare(self: Any, ticket) -> Any: ...  # type: ignore[no-untyped-def]


def test_named_parameters_are_checked_and_more_are_taken_where_the_program_takes_more() -> None:
    schema = derive(program(named))
    assert schema.arguments(b'{"question": "?", "x": [1]}') == {"question": "?", "limit": 3, "x": [1]}
    with pytest.raises(ValidationError):
        schema.arguments(b'{"limit": 1}')
    with pytest.raises(UnfitInputError):
        schema.arguments(b'{"question": "?", "self": 1}')
    document = schema.document()
    assert document["input"]["required"] == ["question"]
    assert document["input"]["properties"].keys() == {"question", "limit"}


def test_names_that_mean_something_to_pydantic_are_the_programs() -> None:
    schema = derive(program(shadowing))
    given = {"copy": "c", "model_config": 1, "_q": "q", "json": "b"}
    assert schema.arguments(b'{"copy": "c", "model_config": 1, "_q": "q", "json": "b"}') == given
    assert schema.document()["input"]["properties"].keys() == given.keys()
    free = derive(program(open_ended))
    assert free.source == "free-form"
    assert free.arguments(b'{"copy": 1, "dict": 2, "model_fields": 3}') == {"copy": 1, "dict": 2, "model_fields": 3}


def test_a_type_that_is_not_known_here_is_said_to_be_free() -> None:
    schema = derive(program(unknown))
    assert schema.underivable == ("ticket",)
    assert schema.arguments(b'{"ticket": {"any": 1}}') == {"ticket": {"any": 1}, "urgent": False}
    with pytest.raises(ValidationError):
        schema.arguments(b'{"ticket": 1, "urgent": "perhaps"}')
    assert derive(program(bare)).underivable == ()


def test_a_signature_tells_both_sides() -> None:
    schema = derive(dspy.ChainOfThought("question: str, limit: int -> answer: str"))
    document = schema.document()
    assert document["source"] == "signature"
    assert document["output"]["properties"].keys() == {"reasoning", "answer"}
    assert schema.arguments(b'{"question": "?", "limit": 3}') == {"question": "?", "limit": 3}


@pytest.mark.parametrize("limit", [b'"3"', b"3.5", b"true", b"null"])
def test_types_are_as_strict_as_their_json_schema(limit: bytes) -> None:
    schema = derive(dspy.Predict("question: str, limit: int -> answer: str"))
    with pytest.raises(ValidationError):
        schema.arguments(b'{"question": "?", "limit": %s}' % limit)


def test_a_whole_number_is_an_integer_however_it_is_written() -> None:
    schema = derive(dspy.Predict("question: str, limits: list[int] -> answer: str"))
    assert schema.arguments(b'{"question": "?", "limits": [3.0, 4]}') == {"question": "?", "limits": [3, 4]}
    with pytest.raises(ValidationError):
        schema.arguments(b'{"question": "?", "limits": [3.0, 4.5]}')


class Tone(dspy.Predict):  # type: ignore[misc]
    """Takes more than its signature says."""

    def forward(self, question: str, tone: int) -> Any: ...


class Static(dspy.Module):  # type: ignore[misc]
    """Needs no self."""

    @staticmethod
    def forward(question: str) -> Any: ...


class Kept(dspy.Module):  # type: ignore[misc]
    """Keeps a signature for its own use."""

    def __init__(self) -> None:
        super().__init__()
        self.signature = dspy.Signature("context -> summary")

    def forward(self, question: str) -> Any: ...


@pytest.mark.parametrize(
    ("made", "names"),
    [(Tone("question -> answer"), {"question", "tone"}), (Static(), {"question"}), (Kept(), {"question"})],
)
def test_what_a_program_takes_is_what_its_own_code_takes(made: Any, names: set[str]) -> None:
    schema = derive(made)
    assert schema.source == "annotations"
    assert set(schema.document()["input"]["properties"]) == names


def test_patterns_and_lists_of_clients_take_no_long_time() -> None:
    given = {"properties": {"word": {"pattern": "^(a+)+$"}, "list": {"uniqueItems": True}}}
    schema = derive(program(open_ended), input=given)
    with pytest.raises(UnfitInputError):
        schema.arguments(b'{"word": "%s!"}' % (b"a" * 50_000))
    items = b",".join(b'{"a": %d}' % each for each in range(20_000))
    assert len(schema.arguments(b'{"list": [%s]}' % items)["list"]) == 20_000


ORDER = {
    "properties": {"ticket": {"type": "object", "properties": {"id": {"type": "integer", "minimum": 1}}}},
    "required": ["ticket"],
}


def test_a_given_schema_tells_what_the_types_do_not() -> None:
    schema = derive(program(unknown), input=ORDER, output={"properties": {"answer": {"type": "string"}}})
    document = schema.document()
    assert (document["input"], document["given"]) == (ORDER, ["input", "output"])
    assert schema.underivable == ()
    assert schema.arguments(b'{"ticket": {"id": 1}}') == {"ticket": {"id": 1}, "urgent": False}
    assert schema.fields(dspy.Prediction(answer="a", context=["secret"])) == {"answer": "a"}
    for body, field in ((b'{"ticket": {"id": 0}}', "ticket.id"), (b"{}", ""), (b"[]", "body")):
        with pytest.raises((UnfitInputError, ValidationError)) as raised:
            schema.arguments(body)
        assert isinstance(raised.value, ValidationError | UnfitInputError)
        ending, problems = endings.of_invalid_input(raised.value)
        assert ending.status == 422
        assert problems[0]["field"] == (field or "body")


def test_a_given_schema_never_shows_the_value_that_it_refuses() -> None:
    schema = derive(program(open_ended), input={"properties": {"card": {"type": "integer"}}})
    with pytest.raises(UnfitInputError) as raised:
        schema.arguments(b'{"card": "4111-1111"}')
    assert raised.value.problems == [("card", "Must be of type integer")]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"type": "objekt"}, "serving.schema.input.type"),
        ({"properties": {"tickets": {}}}, "the program takes no tickets; it takes ticket, urgent"),
        ({"$ref": "http://127.0.0.1:9/schema"}, "is fetched from nowhere"),
        ({"$ref": "#/nowhere"}, "/nowhere"),
        ({"properties": {"ticket": {"pattern": "(?=a)b"}}}, "serving.schema.input"),
    ],
)
def test_a_given_schema_that_is_none_ends_the_start(given: dict[str, Any], words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        derive(program(unknown), input=given)


def test_an_answer_that_refuses_says_which_fields_and_no_more_of_them_than_a_few() -> None:
    schema = derive(dspy.Predict("question: str -> answer: str"))
    with pytest.raises(ValidationError) as raised:
        schema.arguments(b"{" + b",".join(b'"%s%d": 1' % (b"x" * 500, each) for each in range(100)) + b"}")
    ending, fields = endings.of_invalid_input(raised.value)
    assert ending.status == 422
    assert len(fields) == endings.MOST_FIELDS
    assert max(len(each["field"]) for each in fields) <= endings.LONGEST_NAME


class Inner(BaseModel):
    """A nested type."""

    score: float


def test_answers_are_json_whatever_is_in_them() -> None:
    result = dspy.Prediction(
        score=math.nan,
        best=dspy.Prediction(answer="a", at=math.inf),
        examples=[dspy.Example(question="q").with_inputs("question")],
        picture=dspy.Image("https://example.com/a.png"),
        inner=Inner(score=1.5),
    )
    assert answer_json(answer_fields(result)) == (
        b'{"score":null,"best":{"answer":"a","at":null},"examples":[{"question":"q"}],'
        b'"picture":{"url":"https://example.com/a.png"},"inner":{"score":1.5}}'
    )
    assert answer_json(answer_fields("text")) == b'{"output":"text"}'
    with pytest.raises(Exception, match="nothing that JSON has"):
        answer_json(answer_fields(object()))
