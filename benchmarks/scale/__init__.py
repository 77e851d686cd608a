"""One operator over many programs: a real API server, pods that kwok pretends to run, and one process that answers for
every gateway's agent."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.scale.control_plane import kwok
from dev.cluster.interface import REPOSITORY
from dev.cluster.node import build


def main() -> None:
    """Measures in namespaces of its own, in which every pod's address is this machine's; everything ends with them."""
    build.binary()
    kwok()
    own = [sys.executable, "-m", "benchmarks.scale.measure"]
    namespaces = ["--net", "--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc", "--kill-child"]
    subprocess.run(["unshare", *namespaces, "--", *own], cwd=REPOSITORY, check=True)
