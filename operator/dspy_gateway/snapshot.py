"""What the agent knew last, kept in a file, so that a gateway starts again without the API server."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dspy_contract.logs import Logger
from dspy_contract.routes import load_ports, load_routes
from dspy_gateway.counts import Counts, Key
from dspy_gateway.published import Endpoint, Inputs

log = Logger(__name__)


def save_inputs(path: Path, inputs: Inputs) -> None:
    """Writes the inputs, whole or not at all."""
    _write(path, asdict(inputs))


def load_inputs(path: Path) -> Inputs | None:
    """The inputs that were saved; None without a readable file."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads(path.read_text())
        routes = {uid: load_routes(json.dumps(value)) for uid, value in content["routes"].items()}
        slices = {
            revision: {name: tuple(Endpoint(**endpoint) for endpoint in endpoints) for name, endpoints in named.items()}
            for revision, named in content["slices"].items()
        }
        return Inputs(load_ports(json.dumps(content["ports"])), routes, slices)
    return None


def save_counts(path: Path, since: float, counts: Counts) -> None:
    """Writes the sums and since when (Unix seconds) they are counted."""
    content = {
        "since": since,
        "base": _rows(counts.base),
        "uptime": counts.uptime_seconds,
        "latest": _rows(counts.latest),
    }
    _write(path, content)


def load_counts(path: Path) -> tuple[float, Counts] | None:
    """The sums that were saved; None without a readable file."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads(path.read_text())
        return content["since"], Counts(_counter(content["base"]), _counter(content["latest"]), content["uptime"])
    return None


def _rows(counters: Mapping[Key, int]) -> list[list[str | int]]:
    return [[*key, count] for key, count in counters.items()]


def _counter(rows: list[list[Any]]) -> Counter[Key]:
    return Counter({(uid, revision, what): count for uid, revision, what, count in rows})


def _write(path: Path, content: Any) -> None:
    partial = path.with_suffix(".partial")
    try:
        partial.write_text(json.dumps(content))
        partial.rename(path)
    except OSError as error:  # a full disk must not stop the gateway
        log.error("A snapshot could not be written", path=str(path), error=repr(error))
