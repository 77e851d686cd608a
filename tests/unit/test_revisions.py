"""What makes a revision, and what its pods are allowed."""

from __future__ import annotations

from typing import Any

from dspy_operator.api.convert import from_dict
from dspy_operator.api.program import ProgramSpec
from dspy_operator.domain.snapshot import Program, Version
from dspy_operator.resources.revision import Runtime, controller_revision, read_revision, revision_name, scaled

SPEC: dict[str, Any] = {
    "model": {"uri": "models:/qa@champion"},
    "lm": {"model": "openai/gpt-4o-mini", "credentials": {"apiKey": {"name": "openai", "key": "api-key"}}},
}
VERSION = Version("models:/qa/3", "3", "m-1", "digest", "3.11", "3.4.1")
RUNTIME = Runtime("runtime:1", "http://mlflow:5000")


def program(spec: dict[str, Any]) -> Program:
    return Program("shop", "qa", "uid", 1, "1", from_dict(spec, ProgramSpec), "", {}, None)


def test_what_changes_no_answer_and_no_pod_makes_no_revision() -> None:
    name = revision_name("qa", SPEC, VERSION)
    assert revision_name("qa", {**SPEC, "replicas": 5, "rolloutPolicy": "Required"}, VERSION) == name
    assert revision_name("qa", {**SPEC, "model": {"uri": "models:/qa/3"}}, VERSION) == name


def test_what_changes_answers_or_pods_makes_a_revision() -> None:
    name = revision_name("qa", SPEC, VERSION)
    assert revision_name("qa", {**SPEC, "lm": {"model": "openai/other"}}, VERSION) != name
    assert revision_name("qa", {**SPEC, "serving": {"concurrency": 1}}, VERSION) != name
    moved = Version("models:/qa/3", "3", "m-1", "another digest", "3.11", "3.4.1")
    assert revision_name("qa", SPEC, moved) != name


def test_pods_are_restricted_and_hold_no_token_and_no_key() -> None:
    manifest = controller_revision(program(SPEC), "qa-1", VERSION, RUNTIME)
    pod = read_revision(manifest).deployment["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod["volumes"][1]["secret"]["secretName"] == "openai"
    assert not any("secretKeyRef" in str(variable) for variable in container["env"])


def test_users_words_about_pods_merge_append_and_replace() -> None:
    words = {
        "labels": {"team": "a", "dspy.dev/revision": "mine"},
        "nodeSelector": {"disk": "ssd"},
        "serviceAccountName": "cloud",
        "volumes": [{"name": "extra", "emptyDir": {}}],
        "volumeMounts": [{"name": "extra", "mountPath": "/extra"}],
    }
    deployment = read_revision(
        controller_revision(program({**SPEC, "pod": words}), "qa-1", VERSION, RUNTIME)
    ).deployment
    template = deployment["spec"]["template"]
    assert template["metadata"]["labels"]["team"] == "a"
    assert template["metadata"]["labels"]["dspy.dev/revision"] == "qa-1"
    assert [volume["name"] for volume in template["spec"]["volumes"]] == ["tmp", "lm-credentials", "extra"]
    assert template["spec"]["automountServiceAccountToken"] is True
    assert template["spec"]["nodeSelector"] == {"disk": "ssd"}


def test_scaling_leaves_the_pinned_manifest_alone() -> None:
    pinned = read_revision(controller_revision(program(SPEC), "qa-1", VERSION, RUNTIME)).deployment
    assert scaled(pinned, 3)["spec"]["replicas"] == 3
    assert "replicas" not in pinned["spec"]
