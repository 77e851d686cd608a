"""Each preset is applied as users apply it, to a program with a rollout, and serves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.cluster.interface import REPOSITORY
from dev.world import World, program, rollout

NAME = "triage"
PRESETS = REPOSITORY / "manifests" / "presets"


@pytest.mark.parametrize("preset", sorted(each.name for each in PRESETS.iterdir()))
def test_a_preset_is_applied_and_serves(world: World, versions: dict[str, str], tmp_path: Path, preset: str) -> None:
    steps: list[dict[str, Any]] = [{"setWeight": 10}, {"pause": {"requests": 20}}]
    content = [program(NAME, versions["good"]), rollout(NAME, steps)]
    (tmp_path / "program.yaml").write_text(yaml.safe_dump_all(content))
    component = os.path.relpath(PRESETS / preset, tmp_path)
    (tmp_path / "kustomization.yaml").write_text(
        yaml.safe_dump({"resources": ["program.yaml"], "components": [component]})
    )
    world.kubectl("apply", "-f", "-", stdin=world.kubectl("kustomize", str(tmp_path)))
    world.wait_condition(NAME, "Available", "True")
    spec = world.get("dspyprogram", NAME)["spec"]
    assert spec.keys() > {"model", "lm"}, "the preset is in it"
    assert spec["lm"]["apiBase"], "and what was there still is"
    with world.traffic(NAME) as traffic:
        world.wait(lambda: len(traffic.answers) >= 20, "twenty answers")
    assert not traffic.failed()
