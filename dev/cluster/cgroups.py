"""Control groups of the nodes that this project starts, in version 1 (a tree for each controller) and 2."""

from __future__ import annotations

import os
import time
from pathlib import Path

from dev.cluster.interface import ClusterError

ROOT = Path("/sys/fs/cgroup")
REMOVAL_SECONDS = 10


def controllers() -> list[Path]:
    """The root of every tree: one in version 2."""
    if (ROOT / "cgroup.controllers").exists():
        return [ROOT]
    return [path for path in ROOT.iterdir() if path.is_dir() and not path.is_symlink()]


def make_cgroups(name: str) -> None:
    """Makes a group in every tree; in version 1 a new one has no processors until it is told."""
    for controller in controllers():
        folder = controller / name
        folder.mkdir(exist_ok=True)
        for file in ("cpuset.cpus", "cpuset.mems"):
            if (folder / file).exists():
                (folder / file).write_text((controller / file).read_text())


def remove_cgroups(name: str) -> None:
    """Removes a group with all below it, as soon as its processes have gone."""
    deadline = time.monotonic() + REMOVAL_SECONDS
    for controller in controllers():
        for folder, _, _ in os.walk(controller / name, topdown=False):
            while not _removed(Path(folder)):
                if time.monotonic() > deadline:
                    raise ClusterError(f"{folder} is still in use after {REMOVAL_SECONDS} s")
                time.sleep(0.05)


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
