"""A ledger as it is read back from a status: migrated when it is old, left alone when it is newer, else checked.
Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cattrs

from dspy_contract.routes import TOKENS
from dspy_operator.api.convert import from_dict
from dspy_operator.domain.ledger import VERSION, Ledger

BETS_BY_STREAM = 7
"""The first version of the ledger in which more than tokens could be spent."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What was read: a ledger, or why there is none. All empty: the status never held one."""

    ledger: Ledger | None = None
    lost: str = ""
    newer_version: int | None = None


def read_ledger(status: Mapping[str, Any]) -> Stored:
    """The ledger inside a status."""
    if "release" not in status:
        return Stored()
    content = status["release"]
    version = content.get("version", 0) if isinstance(content, Mapping) else 0
    if isinstance(version, int) and version > VERSION:
        return Stored(newer_version=version)
    try:
        if version == 0:
            content = _from_version_0(content)
        if version < BETS_BY_STREAM:
            content = _with_bets_by_stream(content)
        ledger = from_dict({**content, "version": VERSION, "history": status.get("history", ())}, Ledger)
    except (cattrs.BaseValidationError, KeyError, TypeError, ValueError, AttributeError) as error:
        return Stored(lost=f"{type(error).__name__}: {'; '.join(_reasons(error))}")
    problem = ledger.problem()
    return Stored(lost=problem) if problem else Stored(ledger)


def newer(stored: Ledger | None, latest: Ledger | None) -> Ledger | None:
    """The stored ledger, with the evidence that this process gathered since it was stored."""
    if latest is None or stored is None or latest.releases != stored.releases:
        return stored
    if (latest.release is None) != (stored.release is None):
        return stored
    written = (latest.serial, latest.request, latest.checkpointed_at)
    return latest if written == (stored.serial, stored.request, stored.checkpointed_at) else stored


def _from_version_0(content: Mapping[str, Any]) -> dict[str, Any]:
    """The form before ledgers had a version. Its evidence was of another test: the release's begins anew."""
    release = content.get("release")
    draining = [{"revision": each["revision"]} for each in content.get("draining", ())]
    refused = [
        {key: each[key] for key in ("revision", "outcome", "reason", "message", "at")}
        for each in content.get("refused", ())
    ]
    migrated = {**content, "draining": draining, "refused": refused, "releases": 1 if release else 0}
    if release:
        migrated["release"] = {
            "id": 1,
            "candidate": release["candidate"],
            "startedAt": release["startedAt"],
            "policy": release.get("policy"),
            "steps": [_step_from_version_0(step) for step in release.get("steps", ())],
            "step": release.get("step", 0),
            "weightBp": release.get("weight", 0),
            "readyOnce": release.get("readyOnce", False),
        }
    return migrated


def _step_from_version_0(step: Mapping[str, Any]) -> dict[str, Any]:
    if "setWeight" in step:
        return {"kind": "SetWeight", "weightBp": round(step["setWeight"] * 100)}
    pause = step["pause"]
    if "requests" in pause:
        return {"kind": "PauseRequests", "requests": pause["requests"]}
    return {"kind": "PauseSeconds", "seconds": pause["seconds"]}


def _with_bets_by_stream(content: Mapping[str, Any]) -> dict[str, Any]:
    """Bets were of tokens only."""
    release = content.get("release") or {}
    evidence = release.get("evidence") or {}

    def by_stream(total: Mapping[str, Any]) -> dict[str, Any]:
        return {**total, "bets": {TOKENS: total["bets"]} if total.get("bets") else {}}

    totals = [by_stream(total) for total in evidence.get("totals", ())]
    tables = {key: {**table, "total": by_stream(table["total"])} for key, table in evidence.get("tables", {}).items()}
    if not totals and not tables:
        return dict(content)
    return {**content, "release": {**release, "evidence": {**evidence, "totals": totals, "tables": tables}}}


def _reasons(error: BaseException) -> list[str]:
    return cattrs.transform_error(error) if isinstance(error, cattrs.BaseValidationError) else [str(error)]
