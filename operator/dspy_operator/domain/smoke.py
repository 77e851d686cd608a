"""What an answer to a smoke test's request means, and what is wrong with a smoke test that cannot be carried out. Pure.

Expectations are one JSON Schema. Whoever may write a rollout writes them and the operator is everybody's, so nothing in
them may take long: patterns take linear time, nothing refers to anything else, and all together is bounded in size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, NoReturn

import jsonschema_rs
import msgspec

from dspy_contract.outcomes import Outcome
from dspy_operator.api.rollout import Expectation, SmokeRequest, SmokeTest, Strategy

LARGEST_BYTES = 64 << 10
"""Of a smoke test, as JSON."""
LARGEST_ANSWER_BYTES = 256 << 10
MOST_PATTERNS, LARGEST_PATTERN_BYTES = 50, 500_000
"""Of a smoke test, and of one when it is compiled: that takes a few ms at most."""
MOST_WORK = 10_000_000
"""Bytes of one request's expectations times bytes of its answer: what is checked within half a second, since that is
done between the passes and looks of everybody."""
MOST_PROBLEMS, LONGEST_WORDS = 2, 160
"""Of one answer, and of one of its problems."""

_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_UNREADABLE = (msgspec.DecodeError, ValueError, TypeError, KeyError, RecursionError)


@dataclass(frozen=True, slots=True)
class PreviewAnswer:
    """What came back: `revision` and `outcome` are the headers of those names; `body` is cut when it is larger than
    LARGEST_ANSWER_BYTES."""

    status: int
    outcome: str
    revision: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Passed:
    """It is what it should be."""


@dataclass(frozen=True, slots=True)
class Failed:
    """It is not, and why."""

    words: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """It says nothing of the candidate, and why: the request is sent again."""

    words: str


Verdict = Passed | Failed | Unknown


def verdict(request: SmokeRequest, answer: PreviewAnswer, candidate: str) -> Verdict:
    """What an answer says of the candidate. A provider's errors, and pods without room, say nothing of it."""
    if answer.revision != candidate or (answer.status in (502, 503) and not answer.outcome):
        # What has no outcome is the gateway's own word, by whatever name: no pod could be reached.
        return Unknown(f"no pod of the candidate answers at the preview (status {answer.status})")
    if answer.outcome in (Outcome.UPSTREAM_ERROR, Outcome.OVERLOADED):
        return Unknown(f"{answer.outcome} ({_code(answer)})")
    if answer.status != 200:
        return Failed(f"{answer.outcome or 'status'} ({_code(answer)})")
    if len(answer.body) > LARGEST_ANSWER_BYTES:
        return Failed(f"the answer is larger than {LARGEST_ANSWER_BYTES >> 10} KiB")
    if len(answer.body) * len(msgspec.json.encode(request.expect)) > MOST_WORK:
        return Failed("the answer is too large for expectations that are so large")
    try:
        found = msgspec.json.decode(answer.body)
    except _UNREADABLE:
        return Failed("the answer is no JSON")
    try:
        problems = list(islice(_problems(request, found), MOST_PROBLEMS))
    except ValueError as error:
        return Failed(f"the answer cannot be checked: {_short(str(error))}")
    return Failed("; ".join(problems)) if problems else Passed()


def problem_of(strategy: Strategy) -> str:
    """Why a strategy's smoke test cannot be carried out, naming the field; empty for one that can."""
    test = strategy.blue_green.smoke_test
    return _problem_of(test) if test else ""


def named(request: SmokeRequest, number: int) -> str:
    """How people know a request: by its name, else by its number, from 1."""
    return request.name or f"request {number}"


def _problem_of(test: SmokeTest) -> str:
    path = "strategy.blueGreen.smokeTest"
    try:
        size = sum(len(msgspec.json.encode(each)) for each in test.requests)
    except _UNREADABLE as error:
        return f"{path} is no JSON: {error}"
    if size > LARGEST_BYTES:
        return f"{path} is larger than {LARGEST_BYTES >> 10} KiB"
    if sum(_patterns(expected) for request in test.requests for expected in request.expect.values()) > MOST_PATTERNS:
        return f"{path} has more than {MOST_PATTERNS} patterns"
    for index, request in enumerate(test.requests):
        for name, expected in request.expect.items():
            where = f"{path}.requests[{index}].expect.{name}"
            reference = next((each for each in _keys(expected.schema) if each in _REFERENCES), None)
            if reference:
                return f"{where}.schema: {reference} is not allowed here"
            try:
                _validator(_encoded(_schema(expected)))
            except ValueError as error:
                return f"{where}: {_short(str(getattr(error, 'message', error)))}"
    return ""


def _problems(request: SmokeRequest, found: Any) -> Iterator[str]:
    fields = {name: _schema(expected) for name, expected in request.expect.items()}
    schema = {"type": "object", "required": list(fields), "properties": fields}
    for error in _validator(_encoded(schema)).iter_errors(found):
        path = ".".join(str(part) for part in error.instance_path)
        yield f"{path}: {_short(error.message)}" if path else _short(error.message)


def _schema(expected: Expectation) -> dict[str, Any]:
    parts: list[Mapping[str, Any]] = [expected.schema] if expected.schema else []
    if expected.equals is not None:
        parts.append({"const": expected.equals})
    if expected.pattern is not None:
        parts.append({"type": "string", "pattern": expected.pattern})
    return {"allOf": parts} if parts else {}


@lru_cache(maxsize=512)
def _validator(schema: bytes) -> Any:
    """Of a schema as JSON: each is compiled once. Raises ValueError for what is no schema."""

    def refuse(address: str) -> NoReturn:
        raise ValueError(f"{address} is fetched from nowhere")

    options = jsonschema_rs.RegexOptions(size_limit=LARGEST_PATTERN_BYTES)
    return jsonschema_rs.validator_for(msgspec.json.decode(schema), pattern_options=options, retriever=refuse)


def _encoded(schema: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(schema)


def _patterns(expected: Expectation) -> int:
    """How many there are, at every depth; keys of `patternProperties` are some."""
    keys = list(_keys(expected.schema))
    named = sum(len(each) for each in _values(expected.schema, "patternProperties") if isinstance(each, Mapping))
    return (expected.pattern is not None) + keys.count("pattern") + named


def _values(value: Any, name: str) -> Iterator[Any]:
    """The values of a key, at every depth."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            if key == name:
                yield each
            yield from _values(each, name)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _values(each, name)


def _keys(value: Any) -> Iterator[str]:
    """Every key at every depth; the value is JSON, so it ends."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield key
            yield from _keys(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _keys(each)


def _code(answer: PreviewAnswer) -> str:
    """The code, and what the runtime's own words say: never those of the provider or of the program."""
    try:
        error = msgspec.json.decode(answer.body)["error"]
        return _short(f"{answer.status} {error['code']}: {error['message']}")
    except _UNREADABLE:
        return str(answer.status)


def _short(words: str) -> str:
    printable = "".join(filter(str.isprintable, words))
    return printable if len(printable) <= LONGEST_WORDS else f"{printable[: LONGEST_WORDS - 3]}..."
