"""What a runtime pod says of itself, as far as it is believed: its image may be the user's own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dspy_contract.description import DROPPED_SETTINGS, UNDERIVABLE
from dspy_operator.domain.snapshot import Description, Standstill
from dspy_operator.runtime_client import LONGEST_NAME, MOST_NAMES, read_description, read_standstill


def body(**content: Any) -> bytes:
    """A runtime's `/description`."""
    return json.dumps({UNDERIVABLE: [], DROPPED_SETTINGS: [], **content}).encode()


def test_what_is_left_out_is_read() -> None:
    told = body(droppedSettings=["rm"], underivable=["ticket"])
    assert read_description("m-1", told) == Description("m-1", ("rm",), ("ticket",))
    assert read_description("m-1", body()) == Description("m-1")


def test_names_are_few_and_short() -> None:
    found = read_description("m-1", body(droppedSettings=["x" * 1_000] * 1_000))
    assert len(found.dropped_settings) == MOST_NAMES
    assert read_description("m-1", body(underivable=["a\u0007b"])).underivable == ("ab",)
    assert len(found.dropped_settings[0]) == LONGEST_NAME


@pytest.mark.parametrize(
    "told", [b"", b"<html>", b"[]", b"{}", b'"x"', body(droppedSettings=3), body(underivable="ab")]
)
def test_what_is_no_description_is_refused(told: bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        read_description("m-1", told)


def test_a_standstill_is_told_by_the_programs_innermost_frame() -> None:
    told = {"seconds": 3.0, "ageSeconds": 12.5, "frames": ["a.py:1 forward", "a.py:9 wait"]}
    assert read_standstill("m-1", json.dumps(told).encode()) == Standstill("m-1", 3.0, 12.5, "a.py:9 wait")
    assert read_standstill("m-1", json.dumps({**told, "frames": []}).encode()) == Standstill("m-1", 3.0, 12.5, "")
    assert read_standstill("m-1", b"null") is None


@pytest.mark.parametrize("told", [b"", b"[]", b"{}", b'"x"', b'{"seconds": "long", "ageSeconds": 1, "frames": []}'])
def test_what_is_no_standstill_is_refused(told: bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        read_standstill("m-1", told)
