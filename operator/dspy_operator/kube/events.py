"""Kubernetes events: one for each transition, named so that one that is tried again is not emitted twice."""

from __future__ import annotations

import hashlib
import socket

from dspy_contract.logs import Logger
from dspy_kube.client import UNREACHABLE, ApiException, ConflictException, Kube
from dspy_operator.api.names import API_VERSION, FIELD_MANAGER
from dspy_operator.api.times import timestamp
from dspy_operator.domain.snapshot import Program
from dspy_operator.domain.transition import Event
from dspy_operator.kube.paths import path

LONGEST_MESSAGE = 1024
log = Logger(__name__)


async def emit(kube: Kube, program: Program, event: Event, now: float) -> None:
    """Emits one event on the program. An event that cannot be emitted is logged: it must not keep a release from
    moving."""
    log.info(event.message, namespace=program.namespace, program=program.name, reason=event.reason)
    digest = hashlib.sha256(f"{program.uid}{event.reason}{event.message}{now:.0f}".encode()).hexdigest()[:12]
    time = timestamp(now)
    manifest = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{program.name}.{digest}", "namespace": program.namespace},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": "DSPyProgram",
            "namespace": program.namespace,
            "name": program.name,
            "uid": program.uid,
            "resourceVersion": program.resource_version,
        },
        "type": "Warning" if event.warning else "Normal",
        "reason": event.reason,
        "message": event.message[:LONGEST_MESSAGE],
        "source": {"component": FIELD_MANAGER},
        "reportingComponent": FIELD_MANAGER,
        "reportingInstance": socket.gethostname(),
        "action": event.reason,
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    }
    try:
        await kube.request("POST", path("Event", program.namespace), None, manifest)
    except ConflictException:
        return
    except (ApiException, *UNREACHABLE) as error:
        log.warning("An event could not be emitted", program=program.name, reason=event.reason, error=repr(error))
