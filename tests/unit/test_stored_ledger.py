"""Ledgers that other versions wrote, that somebody edited, or that nobody can read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dspy_operator.api.convert import to_dict
from dspy_operator.domain.ledger import VERSION, Draining, Ledger, Release
from dspy_operator.domain.steps import PauseRequests, PauseSeconds, SetWeight
from dspy_operator.domain.stored_ledger import read_ledger

RELEASE = Release("qa-2", id=1, started_at=5.0, steps=(SetWeight(1_000), PauseSeconds(5)), weight_bp=1_000)
LEDGER = Ledger(serial=3, releases=1, stable="qa-1", stable_proven=True, release=RELEASE)

BEFORE_VERSIONS: dict[str, Any] = {
    "serial": 7,
    "stable": "triage-aaaa",
    "stableProven": True,
    "release": {
        "candidate": "triage-bbbb",
        "startedAt": 1_790_000_000.5,
        "policy": "triage",
        "steps": [{"setWeight": 10.0}, {"pause": {"requests": 30}}, {"setWeight": 33.33}, {"pause": {"seconds": 60}}],
        "step": 2,
        "weight": 3333,
        "readyOnce": True,
        "evidence": {"failures": {"logCash": -1.6, "logStakes": [-2.5] * 8}},
    },
    "refused": [
        {"revision": "triage-cccc", "outcome": "RolledBack", "reason": "FailsMoreOften", "message": "m", "at": 1.0,
         "stable": {"requests": 3, "answered": 3}},
    ],
    "draining": [{"revision": "triage-dddd", "since": 1_790_000_000.0}],
}  # fmt: skip
"""What the operator wrote before ledgers had a version."""


def stored(ledger: Ledger, **changed: Any) -> dict[str, Any]:
    return {"release": {**to_dict(ledger), "version": VERSION, **changed}}


def test_a_ledger_survives_the_status() -> None:
    assert read_ledger(stored(LEDGER)).ledger == LEDGER


def test_a_status_that_never_held_one_is_no_trouble() -> None:
    found = read_ledger({})
    assert (found.ledger, found.lost, found.newer_version) == (None, "", None)


def test_a_ledger_of_version_1_in_mid_release_goes_on() -> None:
    """Written by the operator whose times were Unix seconds, after a rollback and in the middle of another release."""
    status = json.loads((Path(__file__).parent / "ledgers" / "version_1.json").read_text())
    ledger = read_ledger(status).ledger
    assert ledger is not None
    assert ledger.release is not None
    assert (ledger.releases, ledger.release.step, ledger.release.weight_bp) == (2, 3, 5_000)
    assert ledger.release.evidence.candidate.requests > 0
    assert [refused.at for refused in ledger.refused] == [pytest.approx(1_000_015.5)]
    again = read_ledger(_status(ledger)).ledger
    assert again is not None
    assert read_ledger(_status(again)).ledger == again, "what is read back equals what was written"


def test_bets_of_version_6_were_of_tokens() -> None:
    six = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    content = {"weight": 0.5, "since": 5.0, "judged": True, "bounded": True, "warm": True, "step": 1}
    table = {"pod": "p", "incarnation": "i", "number": 3, "openedAt": 1.0, "seenAt": 2.0, "settled": False}
    evidence = {"totals": [{**content, "bets": six}, content], "tables": {"p/i/3": {**table, "total": content}}}
    release = {**to_dict(RELEASE), "evidence": evidence}
    ledger = read_ledger(stored(LEDGER, version=6, release=release)).ledger
    assert ledger is not None
    assert ledger.release is not None
    assert [each.bets for each in ledger.release.evidence.totals] == [{"tokens": tuple(six)}, {}]
    assert [each.total.bets for each in ledger.release.evidence.tables.values()] == [{}]


def test_no_time_in_a_status_is_a_number() -> None:
    status = json.loads((Path(__file__).parent / "ledgers" / "version_1.json").read_text())
    ledger = read_ledger(status).ledger
    assert ledger is not None
    assert not re.findall(r"(?<![.\d])\d{7,}", json.dumps(_status(ledger)))


def _status(ledger: Ledger) -> dict[str, Any]:
    return {"release": {**to_dict(ledger), "version": VERSION}, "history": to_dict(ledger)["history"]}


def test_a_ledger_without_a_version_is_migrated() -> None:
    history = [{"revision": "triage-aaaa", "outcome": "Promoted", "message": "m", "at": 1_789_000_000.0}]
    ledger = read_ledger({"release": BEFORE_VERSIONS, "history": history}).ledger
    assert ledger is not None
    assert ledger.release is not None
    assert ledger.release.steps == (SetWeight(1_000), PauseRequests(30), SetWeight(3_333), PauseSeconds(60))
    assert (ledger.release.step, ledger.release.weight_bp, ledger.release.id) == (2, 3_333, 1)
    assert ledger.draining == (Draining("triage-dddd"),)
    assert ledger.refusal("triage-cccc")
    assert ledger.history[0].at == 1_789_000_000.0


def test_a_newer_ledger_is_not_touched() -> None:
    found = read_ledger(stored(LEDGER, version=VERSION + 1))
    assert (found.ledger, found.newer_version) == (None, VERSION + 1)


@pytest.mark.parametrize(
    "changed",
    [
        {"serial": "many"},
        {"release": {**to_dict(RELEASE), "weightBp": 20_000}},
        {"release": {**to_dict(RELEASE), "step": 9}},
        {"release": {**to_dict(RELEASE), "candidate": "qa-1"}},
        {"release": "text"},
        {"draining": [{}]},
    ],
)
def test_what_no_version_can_carry_on_is_lost_with_a_reason(changed: dict[str, Any]) -> None:
    found = read_ledger(stored(LEDGER, **changed))
    assert found.ledger is None
    assert found.lost
