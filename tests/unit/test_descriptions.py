"""What a runtime pod says of itself, as far as it is believed: its image may be the user's own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dspy_contract.description import DROPPED_SETTINGS, UNDERIVABLE
from dspy_operator.descriptions import LONGEST_NAME, MOST_NAMES, read_description
from dspy_operator.domain.snapshot import Description


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
