"""Kubernetes events: one for each transition, with a name of its own, so that the same words are not told twice."""

from __future__ import annotations

import hashlib
import socket

from dspy_contract.logs import Logger
from dspy_kube.client import UNREACHABLE, ApiException, ConflictException, Kube
from dspy_operator.api.conditions import timestamp
from dspy_operator.api.names import API_VERSION, FIELD_MANAGER
from dspy_operator.domain.release import Said
from dspy_operator.domain.snapshot import Program
from dspy_operator.kube.paths import path

LONGEST_MESSAGE = 1024
log = Logger(__name__)


async def tell(kube: Kube, program: Program, said: Said, now: float) -> None:
    """Tells one event on the program. An event that cannot be told is logged: it must not keep a release from
    moving."""
    log.info(said.message, namespace=program.namespace, program=program.name, reason=said.reason)
    digest = hashlib.sha256(f"{program.uid}{said.reason}{said.message}{now:.0f}".encode()).hexdigest()[:12]
    time = timestamp(now)
    event = {
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
        "type": "Warning" if said.warning else "Normal",
        "reason": said.reason,
        "message": said.message[:LONGEST_MESSAGE],
        "source": {"component": FIELD_MANAGER},
        "reportingComponent": FIELD_MANAGER,
        "reportingInstance": socket.gethostname(),
        "action": said.reason,
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    }
    try:
        await kube.request("POST", path("Event", program.namespace), None, event)
    except ConflictException:
        return
    except (ApiException, *UNREACHABLE) as error:
        log.warning("An event could not be told", program=program.name, reason=said.reason, error=repr(error))
