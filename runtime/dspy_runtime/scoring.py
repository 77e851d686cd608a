"""What MLflow's clients send to a model that is served, and what they read: `/invocations`.

MLflow serves a DSPy program one row at a time; several are a batch here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dspy_runtime.batch import checked, parsed, summed_up
from dspy_runtime.endings import UnfitInputError
from dspy_runtime.exchange import Exchange

_FORMATS = ("dataframe_split", "dataframe_records", "instances", "inputs")


def rows_of(body: bytes, fits: Callable[[Mapping[str, Any]], bool]) -> list[Any]:
    """The rows of a request. Raises UnfitInputError.

    `fits` says whether the program takes a row: `{"inputs": {"texts": ["a"]}}` is a row whose field is a list where the
    program takes one, and else a column with one row.
    """
    content = parsed(body)
    if not isinstance(content, dict):
        raise UnfitInputError([("body", f"An object with one of {', '.join(_FORMATS)}")])
    if content.pop("params", None):
        raise UnfitInputError([("params", "The program takes no parameters")])
    names = [name for name in _FORMATS if name in content]
    if len(names) != 1 or len(content) != 1:
        return [content]  # as it would be sent to /predict
    given = content[names[0]]
    rows = _split(given) if names == ["dataframe_split"] else _listed(names[0], given, fits)
    return checked(rows)


def _split(given: Any) -> list[Any]:
    columns, data = (given.get(name) for name in ("columns", "data")) if isinstance(given, dict) else (None, None)
    if not isinstance(columns, list) or not isinstance(data, list):
        raise UnfitInputError([("dataframe_split", "An object with columns and data")])
    wrong = next((number for number, row in enumerate(data) if not _is_row(row, len(columns))), None)
    if wrong is not None:
        raise UnfitInputError([(f"dataframe_split.data.{wrong}", f"A list of {len(columns)} values, as columns are")])
    return [dict(zip(map(str, columns), row, strict=True)) for row in data]


def _listed(name: str, given: Any, fits: Callable[[Mapping[str, Any]], bool]) -> list[Any]:
    if isinstance(given, list):
        return given
    if not isinstance(given, dict) or name == "dataframe_records":
        raise UnfitInputError([(name, "A list of objects")])
    lengths = {len(value) if isinstance(value, list) else None for value in given.values()}
    if fits(given) or len(lengths) != 1 or None in lengths:
        return [given]
    return [dict(zip(given, row, strict=True)) for row in zip(*given.values(), strict=True)]


def _is_row(row: Any, width: int) -> bool:
    return isinstance(row, list) and len(row) == width


def answered(request: Exchange, rows: list[Exchange]) -> None:
    """Ends a request by its rows: MLflow's clients know no answer of which a part failed, so the first row that did
    speaks for all."""
    summed_up(request, rows)
    failed = next((row for row in rows if row.ending is not None and row.ending.status != 200), None)
    if failed is not None:
        request.ending, request.answer = failed.ending, failed.answer
    elif len(rows) == 1:
        request.answer = b'{"predictions":' + rows[0].answer + b"}"
    else:
        request.answer = b'{"predictions":[' + b",".join(row.answer for row in rows) + b"]}"
