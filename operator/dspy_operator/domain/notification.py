"""What receivers of notifications are told of a transition, in their own formats. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from dspy_operator.api.names import API_VERSION
from dspy_operator.api.reasons import Reason
from dspy_operator.api.rollout import Policy
from dspy_operator.api.times import timestamp
from dspy_operator.domain.snapshot import Program
from dspy_operator.domain.transition import Event

TOLD = frozenset(
    {
        Reason.RELEASE_STARTED,
        Reason.RELEASE_PAUSED,
        Reason.COMPARED,
        Reason.CANDIDATE_LOWERED,
        Reason.PROMOTED,
        Reason.ROLLED_BACK,
        Reason.REFUSED,
        Reason.ABORTED,
        Reason.RELEASE_CANCELLED,
    }
)
"""The transitions that are told unless somebody names others."""

_SLACK = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


class Format(StrEnum):
    """How a receiver wants to be told."""

    JSON = "JSON"
    SLACK = "Slack"
    CLOUD_EVENTS = "CloudEvents"


@dataclass(frozen=True, slots=True)
class Notification:
    """One transition of a program, at a time in Unix seconds."""

    namespace: str
    program: str
    uid: str
    rollout: str
    reason: str
    message: str
    warning: bool
    at: float

    @property
    def id(self) -> str:
        """The same whenever it is sent again, so that a receiver may know it."""
        content = f"{self.uid}{self.reason}{self.message}{self.at}"
        return hashlib.sha256(content.encode()).hexdigest()[:32]


def notification(program: Program, policy: Policy | None, event: Event, now: float) -> Notification:
    """What an event of a program tells."""
    about = (program.namespace, program.name, program.uid, policy.name if policy else "")
    return Notification(*about, event.reason, event.message, event.warning, now)


def is_told(reason: str, *chosen: Collection[str]) -> bool:
    """Whether a transition is told: where the innermost choice that names any reasons says so, else by TOLD."""
    return reason in next((each for each in chosen if each), TOLD)


def rendered(told: Notification, form: Format) -> tuple[Mapping[str, str], bytes]:
    """Headers and body."""
    match form:
        case Format.SLACK:
            sign = ":warning: " if told.warning else ""
            where = f"*{told.namespace}/{told.program}*".translate(_SLACK)
            return _JSON, _encoded({"text": f"{sign}{where} {told.reason}: {told.message.translate(_SLACK)}"})
        case Format.CLOUD_EVENTS:
            source = f"/apis/{API_VERSION}/namespaces/{told.namespace}/dspyprograms/{told.program}"
            attributes = {
                "ce-specversion": "1.0",
                "ce-id": told.id,
                "ce-source": source,
                "ce-type": f"dev.dspy.{told.reason}",
                "ce-subject": told.program,
                "ce-time": timestamp(told.at),
            }
            return {**_JSON, **attributes}, _encoded(_plain(told))
        case Format.JSON:
            return _JSON, _encoded({"id": told.id, **_plain(told)})


_JSON = {"content-type": "application/json"}


def _plain(told: Notification) -> dict[str, Any]:
    return {
        "namespace": told.namespace,
        "program": told.program,
        "uid": told.uid,
        "rollout": told.rollout,
        "reason": told.reason,
        "type": "Warning" if told.warning else "Normal",
        "message": told.message,
        "time": timestamp(told.at),
    }


def _encoded(content: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(content)
