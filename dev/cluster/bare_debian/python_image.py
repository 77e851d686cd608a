"""What stands in for the Python image that our Dockerfiles begin with: Debian with its Python, under the same name."""

from __future__ import annotations

import os
import shutil

from dev.cluster.bare_debian.engine import Engine
from dev.cluster.bare_debian.node_image import import_image
from dev.cluster.interface import CACHE
from dev.images.debian import unpacked

REFERENCE = "python:3.13-slim"
SUITE = "trixie"
PACKAGES = ("python3", "python3-venv", "ca-certificates")


def build_python_image(engine: Engine) -> None:
    """Makes the image when the engine has none, with the certificate authorities that this machine trusts."""
    if engine.run(["docker", "image", "inspect", REFERENCE]).returncode == 0:
        return
    print(f"Making what stands in for {REFERENCE} ...", flush=True)
    root = CACHE / "kind" / "python"
    unpacked(SUITE, PACKAGES, root)
    authorities = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
    shutil.copy(authorities, root / "etc/ssl/certs/ca-certificates.crt")
    import_image(engine, root, REFERENCE, "ENV LANG=C.UTF-8")
    shutil.rmtree(root)
