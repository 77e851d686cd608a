"""What MLflow's clients send, as rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from dspy_runtime import batch, scoring
from dspy_runtime.endings import UnfitInputError

ROW = {"question": "why?"}


def takes_text(row: Mapping[str, Any]) -> bool:
    return all(isinstance(value, str) for value in row.values())


def takes_lists(row: Mapping[str, Any]) -> bool:
    return all(isinstance(value, list) for value in row.values())


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (ROW, [ROW]),
        ({"inputs": ROW}, [ROW]),
        ({"inputs": {"question": ["why?"]}}, [ROW]),
        ({"inputs": {"a": ["1", "2"], "b": ["3", "4"]}}, [{"a": "1", "b": "3"}, {"a": "2", "b": "4"}]),
        ({"inputs": {"a": ["1", "2"], "b": "3"}}, [{"a": ["1", "2"], "b": "3"}]),
        ({"inputs": [ROW, ROW]}, [ROW, ROW]),
        ({"instances": [ROW]}, [ROW]),
        ({"dataframe_records": [ROW, ROW]}, [ROW, ROW]),
        ({"dataframe_split": {"columns": ["a", "b"], "data": [[1, 2], [3, 4]]}}, [{"a": 1, "b": 2}, {"a": 3, "b": 4}]),
        ({"dataframe_split": {"index": [0], "columns": ["question"], "data": [["why?"]]}, "params": {}}, [ROW]),
        ({"inputs": "what came", "question": "why?"}, [{"inputs": "what came", "question": "why?"}]),
    ],
)
def test_each_format_is_rows_of_the_programs_fields(content: dict[str, Any], rows: list[Any]) -> None:
    assert scoring.rows_of(json.dumps(content).encode(), takes_text) == rows


def test_a_field_that_is_a_list_is_no_column() -> None:
    body = json.dumps({"inputs": {"texts": ["a", "b"]}}).encode()
    assert scoring.rows_of(body, takes_lists) == [{"texts": ["a", "b"]}]
    assert scoring.rows_of(body, takes_text) == [{"texts": "a"}, {"texts": "b"}]


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (b"{", "body"),
        (b"[1]", "body"),
        (b'{"inputs": 3}', "inputs"),
        (b'{"inputs": []}', "inputs"),
        (b'{"dataframe_records": {"question": ["why?"]}}', "dataframe_records"),
        (b'{"dataframe_split": [1]}', "dataframe_split"),
        (b'{"dataframe_split": {"columns": ["a"], "data": [[1], [1, 2]]}}', "dataframe_split.data.1"),
        (b'{"inputs": {"question": "why?"}, "params": {"temperature": 1}}', "params"),
        (b'{"instances": [' + b"1," * 1_000 + b"1]}", "inputs"),
        (b'{"instances": [' + b"1," * 250_001 + b"1]}", "body"),
    ],
)
def test_what_is_no_request_is_refused_by_the_fields_name(content: bytes, field: str) -> None:
    with pytest.raises(UnfitInputError) as refused:
        scoring.rows_of(content, takes_text)
    assert [name for name, _ in refused.value.problems] == [field]


@pytest.mark.parametrize(
    "content", [b"{}", b"[]", b'{"inputs": {}}', b'{"inputs": [{}], "more": 1}', b'{"inputs": []}', b"x"]
)
def test_a_batch_is_a_list_of_inputs(content: bytes) -> None:
    with pytest.raises(UnfitInputError):
        batch.rows_of(content)
