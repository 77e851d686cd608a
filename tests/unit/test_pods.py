"""What pods say about themselves, as people read it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dspy_operator.kube.pods import workload

DEPLOYMENT = {"metadata": {"name": "qa-1", "uid": "u"}, "spec": {"replicas": 1}}
REFUSED = json.dumps({"reason": "LMConfigurationInvalid", "message": "lm.lastResort is no answer of this program"})


def problem(message: str, **state: Any) -> tuple[str, str]:
    last = {"terminated": {"exitCode": 1, "message": message}}
    status = {"name": "runtime", "restartCount": 1, "state": state, "lastState": last}
    pod = {"metadata": {"name": "qa-1-a"}, "status": {"containerStatuses": [status]}}
    found = workload(DEPLOYMENT, [pod], {}, None, 0.0).problem
    assert found is not None
    return found.reason, found.message


@pytest.mark.parametrize("state", [{"running": {}}, {"waiting": {"reason": "CrashLoopBackOff"}}])
def test_a_runtime_that_ends_says_why_also_while_its_next_start_waits(state: dict[str, Any]) -> None:
    assert problem(REFUSED, **state) == ("LMConfigurationInvalid", "lm.lastResort is no answer of this program")


def test_one_that_says_nothing_is_told_with_where_to_look() -> None:
    reason, words = problem("Traceback", waiting={"reason": "CrashLoopBackOff"})
    assert (reason, "kubectl logs qa-1-a --previous" in words) == ("Crashing", True)
