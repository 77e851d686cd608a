"""The tools that a kind cluster needs: the machine's, or built from their Go modules where Go is."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from dev.cluster.interface import CACHE, ClusterError
from dev.cluster.node import build

MODULE = Path(__file__).with_name("kindconfig") / "go.mod"


@dataclass(frozen=True, slots=True)
class Module:
    """A Go module on this machine."""

    version: str
    folder: Path


def kind() -> str:
    """kind's path. Raises ClusterError with the command that installs it where neither kind nor Go is."""
    if found := shutil.which("kind"):
        return found
    version = _kind_version()
    url = f"https://kind.sigs.k8s.io/dl/{version}/kind-linux-{_architecture()}"
    _need_go("kind", url)
    target = CACHE / "kind" / version / "kind"
    if not target.exists():
        print(f"Building kind {version} ...", flush=True)
        environment = {**os.environ, "GOBIN": str(target.parent)}
        _go("install", f"sigs.k8s.io/kind@{version}", environment=environment)
    return str(target)


def kubectl() -> str:
    """kubectl's path. Raises ClusterError with the command that installs it where neither kubectl nor Go is."""
    if found := shutil.which("kubectl"):
        return found
    _need_go("kubectl", f"https://dl.k8s.io/release/{build.version()}/bin/linux/{_architecture()}/kubectl")
    return str(build.kubectl())


def kind_module() -> Module:
    """kind's source, which holds the files of its node image."""
    version = _kind_version()
    told = _go("mod", "download", "-json", f"sigs.k8s.io/kind@{version}", environment=dict(os.environ))
    return Module(version, Path(json.loads(told)["Dir"]))


def _need_go(tool: str, url: str) -> None:
    if shutil.which("go"):
        return
    install = (
        f"brew install {tool}"
        if sys.platform == "darwin"
        else f"sudo curl -fLo /usr/local/bin/{tool} {url} && sudo chmod +x /usr/local/bin/{tool}"
    )
    raise ClusterError(f"Docker answers but {tool} is not installed: run `{install}`, then this again")


def _kind_version() -> str:
    match = re.search(r"sigs.k8s.io/kind (v\S+)", MODULE.read_text())
    if match is None:
        raise ClusterError(f"{MODULE} requires no sigs.k8s.io/kind")
    return match[1]


def _architecture() -> str:
    return "arm64" if platform.machine() in ("arm64", "aarch64") else "amd64"


def _go(*arguments: str, environment: dict[str, str]) -> str:
    result = subprocess.run([build.go(), *arguments], env=environment, stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        raise ClusterError(f"go {' '.join(arguments)} failed; see its words above")
    return result.stdout
