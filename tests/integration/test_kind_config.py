"""kind's configuration file, checked against kind's own types, for machines on which kind itself cannot run."""

from __future__ import annotations

import subprocess

from dev.cluster.interface import REPOSITORY
from dev.cluster.node.build import go

CHECKER = REPOSITORY / "dev" / "cluster" / "kindconfig"


def test_kind_config_is_what_kind_reads() -> None:
    result = subprocess.run(
        [go(), "run", ".", str(REPOSITORY / "kind-config.yaml")], cwd=CHECKER, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "1 nodes\n"
