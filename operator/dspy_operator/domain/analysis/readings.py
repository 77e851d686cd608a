"""Numbers that Prometheus knows of a candidate, and what they mean for a release. Pure.

A number is no draw: nobody knows how often it would be above its limit by luck. So it decides nothing. While it is
above, the steps stand still and the candidate keeps at most half of the traffic; while it is not known, they stand
still.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from string import Template
from typing import Any

from dspy_operator.api.rollout import PrometheusQuery, Stream


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read last; `problem` says why there is none. `stable` is its number where the two are compared."""

    candidate: float = math.nan
    stable: float = math.nan
    problem: str = "not asked yet"


@dataclass(frozen=True, slots=True)
class Told:
    """What a reading means: in words, and whether it is above its limit; None while that is not known."""

    message: str
    above: bool | None


def told(query: PrometheusQuery, reading: Reading) -> Told:
    """What a reading means."""
    if reading.problem:
        return Told(reading.problem, None)
    if query.tolerance_percent is None:
        limit, whose = query.max if query.max is not None else math.inf, ""
    else:
        limit = reading.stable + abs(reading.stable) * query.tolerance_percent / 100
        whose = f", {query.tolerance_percent:g}% above {reading.stable:.4g} of stable"
    above = reading.candidate > limit
    return Told(f"{reading.candidate:.4g}, {'above' if above else 'at most'} {limit:.4g}{whose}", above)


def worst(streams: tuple[Stream, ...], readings: Mapping[str, Reading], above: bool | None) -> tuple[str, str] | None:
    """The name of a stream that is above its limit, or (None) not known, and what it says; None without any."""
    for stream in streams:
        if stream.prometheus and stream.enabled and not stream.dry_run:
            found = told(stream.prometheus, readings.get(stream.name, Reading()))
            if found.above is above:
                return stream.name, found.message
    return None


def filled(query: str, names: Mapping[str, str]) -> str:
    """The query about these names; what else begins with a dollar is PromQL."""
    return Template(query).safe_substitute(names)


def number_of(answer: Any) -> float | str:
    """The one number of an answer of Prometheus' HTTP API, or why there is none. Raises ValueError, KeyError,
    IndexError or TypeError for what is no such answer."""
    if not isinstance(answer, Mapping):
        raise TypeError(f"a {type(answer).__name__} is no answer")
    if answer.get("status") != "success":
        return f"Prometheus refuses the query: {answer.get('error', 'no reason given')}"
    kind, found = answer["data"]["resultType"], answer["data"]["result"]
    if kind == "vector" and len(found) != 1:
        return f"the query has {len(found)} series; it must have one" if found else "the query has no data"
    if kind not in ("vector", "scalar"):
        return f"the query is a {kind}; it must be one number"
    value = float(found[1] if kind == "scalar" else found[0]["value"][1])
    return value if math.isfinite(value) else f"the query says {value}"
