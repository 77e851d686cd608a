"""Names that appear in a cluster: the API group, labels, annotations, and the names of children."""

from __future__ import annotations

GROUP = "dspy.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
PROGRAMS = "dspyprograms"
ROLLOUTS = "dspyrollouts"

FIELD_MANAGER = "dspy-operator"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
NAME_LABEL = "app.kubernetes.io/name"
GATEWAY_CLUSTER_ROLE = "dspy-gateway"
GATEWAY_LABEL = "dspy.dev/gateway"
"""On every object of a namespace's gateway, so that the gateway's key finds and removes them."""

REQUEST_ANNOTATION = "dspy.dev/request"
FORGET_ANNOTATION = "dspy.dev/forget-answers"
"""Of a program: with each new value its pods forget the answers that they keep."""
STABLE_ANNOTATION = "dspy.dev/promoted-at"
"""On a revision's Deployment: when it became stable. The newest is found again when a status is lost.
(A ControllerRevision cannot carry it: the API server takes a patch of its annotations for a change of its data.)"""
