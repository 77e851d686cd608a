"""A cluster of which only the nodes and pods are pretended: a real control plane, kwok for the rest, and an address on
this machine for every pod, so that real processes may answer there.

For what needs more pods than a machine has room for. It lives in namespaces of its own and ends with them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from dev.cluster.interface import REPOSITORY
from dev.cluster.node import build
from dev.cluster.pretended.control_plane import kwok
from dev.registry import REGISTRY_PYTHON

_NAMESPACES = ("--net", "--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc", "--kill-child")


def run_inside(module: str, arguments: Sequence[str] = ()) -> None:
    """Runs a module of ours where a pretended cluster can be. Raises CalledProcessError when it fails."""
    build.binary()
    kwok()
    subprocess.run([*REGISTRY_PYTHON, "-c", ""], cwd=REPOSITORY, check=True)  # inside there is no network
    own = [sys.executable, "-m", module, *arguments]
    subprocess.run(["unshare", *_NAMESPACES, "--", *own], cwd=REPOSITORY, check=True)
