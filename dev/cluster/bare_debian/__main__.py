"""`python -m dev.cluster.bare_debian COMMAND ...` runs a command with Docker and kind, on any machine.

Where Docker answers it is used. Else, for root on Debian, an engine and kind's node image are made first, and the
command runs in the engine's network. Elsewhere it says why nothing was run, and that is no failure.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click

from dev.cluster.bare_debian.engine import running
from dev.cluster.bare_debian.node_image import build_node_image
from dev.cluster.bare_debian.python_image import build_python_image
from dev.cluster.interface import ClusterError
from dev.cluster.native import install_packages
from dev.cluster.node import build
from dev.images.builder import docker_answers


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def main(command: tuple[str, ...]) -> None:
    """Runs COMMAND where CLUSTER=kind works."""
    if docker_answers():
        sys.exit(subprocess.run(command, env={**os.environ, "CLUSTER": "kind"}).returncode)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        print("Skipped: no Docker answers here, and to make one needs root on Debian")
        return
    install_packages()
    path = f"{Path(build.go()).parent}:{os.environ['PATH']}"
    os.environ["PATH"] = path
    with running() as engine:
        node = build_node_image(engine)
        build_python_image(engine)
        environment = {**engine.environment(), "CLUSTER": "kind", "KIND_IMAGE": node}
        status = subprocess.run(engine.inside(command), env=environment).returncode
    sys.exit(status)


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except ClusterError as error:
        sys.exit(f"Error: {error}")
