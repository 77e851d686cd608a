"""Debian as a tar: the root file systems of which images are made where no registry brings them."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dev.cluster.interface import CACHE, ClusterError

NEEDLESS = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale", "var/log")
EMPTY = ("var/log", "var/lib/apt/lists")


def root_file_system(suite: str, packages: Sequence[str]) -> Path:
    """A tar of the smallest Debian of that suite with these packages, from the cache; made there when it is missing."""
    key = hashlib.sha256("\n".join((suite, *sorted(packages), *NEEDLESS)).encode()).hexdigest()[:12]
    target = CACHE / "debian" / f"{suite}-{key}.tar"
    if not target.exists():
        print(f"Making a root file system from Debian's packages ({suite}; once, about a minute) ...", flush=True)
        _make(suite, packages, target)
    return target


def unpacked(suite: str, packages: Sequence[str], folder: Path) -> None:
    """Fills a folder, emptied first, with such a root file system."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    subprocess.run(["tar", "-C", str(folder), "-xf", str(root_file_system(suite, packages))], check=True)


def unpacked_package(name: str) -> Path:
    """A folder with the files of one of this Debian's own packages, from the cache; without what it depends on."""
    target = CACHE / "debian" / f"package-{name}"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory() as folder:
        download = ["apt-get", "download", "--quiet", name]
        if subprocess.run(download, cwd=folder, capture_output=True).returncode != 0:
            subprocess.run(["apt-get", "update", "--quiet"], check=True, capture_output=True)
            subprocess.run(download, cwd=folder, check=True, capture_output=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as beside:
            partial = Path(beside, "files")
            subprocess.run(["dpkg-deb", "-x", str(next(Path(folder).glob("*.deb"))), str(partial)], check=True)
            try:
                partial.rename(target)
            except OSError:  # another process was first
                if not target.exists():
                    raise
    return target


def _make(suite: str, packages: Sequence[str], target: Path) -> None:
    folder = target.with_suffix(".rootfs")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(packages)}", suite, str(folder)]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        raise ClusterError(f"debootstrap of {suite} failed:\n{result.stdout[-2000:]}")
    for path in NEEDLESS:
        shutil.rmtree(folder / path, ignore_errors=True)
    for path in EMPTY:
        (folder / path).mkdir(parents=True)
    partial = target.with_suffix(".partial")
    subprocess.run(["tar", "-C", str(folder), "--numeric-owner", "-cf", str(partial), "."], check=True)
    partial.rename(target)
    shutil.rmtree(folder)
