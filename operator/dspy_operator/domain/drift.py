"""Whether an object still is as it should be, and if not, which field of it somebody has changed. Pure.

What the API server adds beside a desired field does not count, but in a selector, where one label more selects less;
nor do empty values that it leaves out. What it writes in another way (a quantity) shows as a difference that applying
does not change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_EMPTY: tuple[Any, ...] = (None, "", {}, [])


def difference(actual: Any, desired: Any, path: str = "") -> str | None:
    """The path of the first field that is not as desired; None when an object holds all that is."""
    if isinstance(desired, Mapping):
        if not isinstance(actual, Mapping) or (path.endswith(".selector") and actual.keys() - desired.keys()):
            return path
        found = (
            difference(actual[key], each, f"{path}.{key}") if key in actual else f"{path}.{key}"
            for key, each in desired.items()
            if key in actual or each not in _EMPTY
        )
        return next((field for field in found if field is not None), None)
    if isinstance(desired, list | tuple):
        if not isinstance(actual, list) or len(actual) != len(desired):
            return path
        pairs = enumerate(zip(actual, desired, strict=True))
        found = (difference(left, right, f"{path}[{number}]") for number, (left, right) in pairs)
        return next((field for field in found if field is not None), None)
    return None if actual == desired else path
