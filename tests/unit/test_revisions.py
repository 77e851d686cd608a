"""What makes a revision, and what its pods are allowed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dspy_operator.api.convert import from_dict
from dspy_operator.api.program import ProgramSpec
from dspy_operator.domain.snapshot import Program, Version
from dspy_operator.kube.archives import Archives
from dspy_operator.registry.mlflow import LARGEST_ARCHIVE_BYTES
from dspy_operator.resources.revision import (
    archive_secret,
    controller_revision,
    read_revision,
    revision_name,
    scaled,
)
from dspy_operator.resources.runtime_pod import Runtime

SPEC: dict[str, Any] = {
    "model": {"uri": "models:/qa@champion"},
    "lm": {"model": "openai/gpt-4o-mini", "credentials": {"apiKey": {"name": "openai", "key": "api-key"}}},
}
VERSION = Version("models:/qa/3", "3", "m-1", "digest", "3.11", "3.4.1")
REVISIONS = json.loads((Path(__file__).parent / "revisions" / "projection_1.json").read_text())
RUNTIME = Runtime("runtime:1", "http://mlflow:5000", archived=True)


def program(spec: dict[str, Any]) -> Program:
    return Program("shop", "qa", "uid", 1, "1", from_dict(spec, ProgramSpec), "", {}, None)


def name_of(spec: dict[str, Any], version: Version = VERSION) -> str:
    return revision_name("qa", from_dict(spec, ProgramSpec), version)


def test_what_changes_no_answer_and_no_pod_makes_no_revision() -> None:
    name = name_of(SPEC)
    assert name_of({**SPEC, "replicas": 5, "rolloutPolicy": "Required", "routing": {"forceHeader": "Allow"}}) == name
    assert name_of({**SPEC, "model": {"uri": "models:/qa/3"}}) == name


def test_a_default_that_is_written_down_makes_no_revision() -> None:
    name = name_of(SPEC)
    assert name_of({**SPEC, "serving": {}}) == name
    assert name_of({**SPEC, "serving": {"concurrency": 256, "timeoutSeconds": 60}, "env": [], "pod": {}}) == name
    assert name_of({**SPEC, "lm": {**SPEC["lm"], "maxRetries": 2, "parameters": {}}}) == name
    assert name_of({**SPEC, "model": {**SPEC["model"], "registry": "default"}}) == name


def test_what_changes_answers_or_pods_makes_a_revision() -> None:
    name = name_of(SPEC)
    assert name_of({**SPEC, "lm": {"model": "openai/other"}}) != name
    assert name_of({**SPEC, "serving": {"concurrency": 1}}) != name
    assert name_of(SPEC, replace(VERSION, digest="another digest")) != name


@pytest.mark.parametrize("case", sorted(REVISIONS), ids=lambda case: case)
def test_revisions_keep_their_names_through_upgrades(case: str) -> None:
    """A change of these names would release every program anew. What made them, and what they are, never changes."""
    assert name_of(REVISIONS[case]["spec"]) == REVISIONS[case]["name"]


def test_pods_are_restricted_and_hold_no_token_and_no_key() -> None:
    manifest = controller_revision(program(SPEC), "qa-1", VERSION, RUNTIME)
    pod = read_revision(manifest).deployment["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    (source,) = pod["volumes"][3]["projected"]["sources"]
    assert source["secret"]["name"] == "openai"
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
    assert [volume["name"] for volume in template["spec"]["volumes"]] == [
        "tmp",
        "artifact",
        "settings",
        "lm-credentials",
        "extra",
    ]
    assert template["spec"]["automountServiceAccountToken"] is True
    assert template["spec"]["nodeSelector"] == {"disk": "ssd"}


def test_scaling_leaves_the_pinned_manifest_alone() -> None:
    pinned = read_revision(controller_revision(program(SPEC), "qa-1", VERSION, RUNTIME)).deployment
    assert scaled(pinned, 3)["spec"]["replicas"] == 3
    assert "replicas" not in pinned["spec"]


def test_small_files_are_mounted_and_only_a_download_knows_the_registry() -> None:
    archived = read_revision(controller_revision(program(SPEC), "qa-1", VERSION, RUNTIME)).deployment
    pod = archived["spec"]["template"]["spec"]
    assert "initContainers" not in pod
    assert pod["volumes"][1]["secret"]["secretName"] == "qa-1-artifact"
    assert "mlflow:5000" not in str(archived)
    spec = {**SPEC, "model": {"uri": "models:/qa/3", "credentialsSecret": "registry"}}
    downloaded = controller_revision(program(spec), "qa-1", VERSION, replace(RUNTIME, archived=False))
    pod = read_revision(downloaded).deployment["spec"]["template"]["spec"]
    (fetch,) = pod["initContainers"]
    assert fetch["envFrom"] == [{"secretRef": {"name": "registry"}}]
    assert {"name": "MLFLOW_TRACKING_URI", "value": "http://mlflow:5000"} in fetch["env"]
    assert "mlflow" not in str(pod["containers"]).lower()
    assert fetch["securityContext"] == pod["containers"][0]["securityContext"]
    told = read_revision(downloaded).deployment["spec"]["template"]["metadata"]["annotations"]["dspy.dev/settings"]
    assert json.loads(told)["digest"] == "digest"


def test_the_archive_goes_with_its_revision() -> None:
    manifest = controller_revision(program(SPEC), "qa-1", VERSION, RUNTIME)
    manifest["metadata"]["uid"] = "uid-of-the-revision"
    secret = archive_secret(read_revision(manifest), manifest, b"files")
    assert [owner["uid"] for owner in secret["metadata"]["ownerReferences"]] == ["uid-of-the-revision"]
    assert secret["immutable"] is True


def test_archives_are_kept_within_a_budget_and_never_beside_the_operator() -> None:
    archives = Archives(1_000, {"kube-system"})
    assert archives.takes("shop", 600)
    assert not archives.takes("kube-system", 600)
    assert not archives.takes("shop", 0), "too large for a Secret"
    held = {"data": {"model": {"archiveBytes": 600}}}
    archives.note(None, held)
    assert not archives.takes("shop", 600)
    archives.note(held, None)
    assert archives.takes("shop", 600)
    for said in (10**15, -(10**15), "many", None):
        somebody = {"data": {"model": {"archiveBytes": said}}}
        archives.note(None, somebody)
        assert 0 <= archives.held_bytes <= LARGEST_ARCHIVE_BYTES, "what somebody else's revision says counts as one"
        archives.note(somebody, None)
    assert archives.held_bytes == 0
