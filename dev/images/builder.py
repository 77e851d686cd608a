"""Builds the project's images with docker or, where none answers, buildah; tags them by their content.

A reference `localhost/dspy-operator-<name>:<hash>` changes exactly when the Dockerfile or anything that it copies
changes, so a reference that exists is up to date and nothing is built or loaded twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dev.cluster.interface import CACHE, REPOSITORY, ClusterError
from dev.cluster.node.configuration import PAUSE_IMAGE
from dev.images.debian import root_file_system

BASE_IMAGE = "localhost/dspy-operator-base:bookworm-2"
DEBIAN = "bookworm"
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEPENDENCIES = ("pyproject.toml", "uv.lock")
SHARED = ("operator/dspy_contract", "operator/dspy_kube")
STORAGE = ["--storage-driver", "overlay"]


@dataclass(frozen=True, slots=True)
class Image:
    """An image of the project: its Dockerfile and the paths that the Dockerfile copies, relative to the repository."""

    name: str
    dockerfile: str
    copies: Sequence[str]

    def reference(self) -> str:
        """The name and content tag of the image as the sources stand now."""
        digest = hashlib.sha256(BASE_IMAGE.encode())
        for path in _files([self.dockerfile, *self.copies]):
            digest.update(str(path.relative_to(REPOSITORY)).encode() + b"\0" + _content(path) + b"\0")
        return f"localhost/dspy-operator-{self.name}:{digest.hexdigest()[:12]}"


IMAGES = {
    image.name: image
    for image in (
        Image("operator", "operator/dspy_operator/Dockerfile", (*DEPENDENCIES, *SHARED, "operator/dspy_operator")),
        Image("gateway", "operator/dspy_gateway/Dockerfile", (*DEPENDENCIES, *SHARED, "operator/dspy_gateway")),
        Image(
            "runtime",
            "runtime/dspy_runtime/Dockerfile",
            (*DEPENDENCIES, "operator/dspy_contract", "runtime/dspy_runtime"),
        ),
        Image("mlflow", "dev/images/mlflow.Dockerfile", DEPENDENCIES),
        Image("lm", "dev/images/lm.Dockerfile", (*DEPENDENCIES, "dev/standin")),
    )
}


def docker_answers() -> bool:
    """True where a Docker engine, and not only its client, is there."""
    return (
        shutil.which("docker") is not None and subprocess.run(["docker", "info"], capture_output=True).returncode == 0
    )


def docker_builds() -> bool:
    """True where Docker builds the images: everywhere but for the native node, which needs archives."""
    return os.environ.get("CLUSTER") != "native" and docker_answers()


def python() -> str:
    """The Python minor inside the images: that of the base which this machine's builder uses."""
    return "3.13" if docker_builds() else "3.11"


def build(names: Iterable[str] = tuple(IMAGES)) -> dict[str, str]:
    """Builds the images that are missing. Returns the reference of each by name."""
    builder = _docker_build if docker_builds() else _buildah_build
    references = {}
    for name in names:
        image = IMAGES[name]
        references[name] = image.reference()
        builder(image, references[name])
    return references


def build_alone(name: str, dockerfile: str) -> str:
    """Builds an image from a Dockerfile that copies nothing, as users do. Returns its reference."""
    digest = hashlib.sha256(dockerfile.encode()).hexdigest()[:12]
    reference = f"localhost/dspy-operator-{name}:{digest}"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "Dockerfile")
        file.write_text(dockerfile)
        if docker_builds():
            _docker_bud(reference, str(file), folder)
        elif not archive(reference).exists():
            _buildah_bud(reference, str(file), folder)
    return reference


def archive(reference: str) -> Path:
    """The file that holds an image which buildah built, for import into a node without a registry."""
    return CACHE / "images" / (reference.rpartition("/")[2].replace(":", "-") + ".tar")


def pause() -> str:
    """The image of a pod's sandbox: the local base image with a command that waits."""
    if not archive(PAUSE_IMAGE).exists():
        _base()
        _from_base(PAUSE_IMAGE, ["--entrypoint", '["/bin/sleep", "infinity"]'])
        _export(PAUSE_IMAGE)
    return PAUSE_IMAGE


def _files(paths: Iterable[str]) -> Iterator[Path]:
    for name in paths:
        path = REPOSITORY / name
        found = path.rglob("*") if path.is_dir() else [path]
        yield from sorted(file for file in found if file.is_file() and "__pycache__" not in file.parts)


def _content(path: Path) -> bytes:
    """What of a file reaches an image. Of pyproject.toml only the dependencies do, not the settings of the linters."""
    if path.name != "pyproject.toml":
        return path.read_bytes()
    project = tomllib.loads(path.read_text())
    relevant = (project["project"], project["dependency-groups"], project["tool"]["uv"])
    return json.dumps(relevant, sort_keys=True).encode()


def _docker_build(image: Image, reference: str) -> None:
    if subprocess.run(["docker", "image", "inspect", reference], capture_output=True).returncode == 0:
        return
    _docker_bud(reference, image.dockerfile, str(REPOSITORY))
    repository = reference.rpartition(":")[0]
    built = _run(["docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", repository]).split()
    if old := [each for each in built if each != reference]:
        _run(["docker", "image", "rm", *old])


def _docker_bud(reference: str, dockerfile: str, context: str) -> None:
    print(f"Building {reference} ...", flush=True)
    # Docker before 23 builds without BuildKit unless told; the Dockerfiles' cache mounts need it.
    buildkit = {**os.environ, "DOCKER_BUILDKIT": "1"}
    _run(["docker", "build", "--quiet", "--tag", reference, "--file", dockerfile, context], environment=buildkit)


def _buildah_build(image: Image, reference: str) -> None:
    if archive(reference).exists():
        return
    _base()
    _buildah_bud(reference, image.dockerfile, str(REPOSITORY))


def _buildah_bud(reference: str, dockerfile: str, context: str) -> None:
    print(f"Building {reference} ...", flush=True)
    # A bundle of certificate authorities that only this machine knows is lent to the build, never copied into the
    # image.
    authorities = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
    _buildah(
        "bud",
        "--quiet",
        "--layers",
        "--isolation",
        "chroot",
        "--network",
        "host",
        "--build-arg",
        f"BASE={BASE_IMAGE}",
        "--volume",
        f"{authorities}:/etc/ssl/certs/ca-certificates.crt:ro",
        "--tag",
        reference,
        "--file",
        dockerfile,
        context,
    )
    _export(reference)


def _base() -> None:
    """Makes the local base image, Debian with its Python, from Debian's packages."""
    if (
        subprocess.run(["buildah", *STORAGE, "inspect", "--type", "image", BASE_IMAGE], capture_output=True).returncode
        == 0
    ):
        return
    root = root_file_system(DEBIAN, ("python3", "python3-venv", "ca-certificates"))
    container = _buildah("from", "scratch")
    _buildah("add", container, str(root), "/")
    _buildah("config", "--env", "LANG=C.UTF-8", "--env", f"PATH={SEARCH_PATH}", container)
    _buildah("commit", "--rm", container, BASE_IMAGE)


def _from_base(reference: str, configuration: Sequence[str]) -> None:
    container = _buildah("from", BASE_IMAGE)
    _buildah("config", *configuration, container)
    _buildah("commit", "--rm", container, reference)


def _export(reference: str) -> None:
    target = archive(reference)
    target.parent.mkdir(parents=True, exist_ok=True)
    for old in target.parent.glob(target.name.rpartition("-")[0] + "-*.tar"):
        old.unlink()
    partial = target.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    _buildah("push", "--quiet", "--disable-compression", reference, f"oci-archive:{partial}:{reference}")
    partial.rename(target)


def _buildah(*arguments: str) -> str:
    return _run(["buildah", *STORAGE, *arguments])


def _run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    if result.returncode != 0:
        words = (result.stdout + result.stderr)[-4000:]
        raise ClusterError(f"{' '.join(command[:4])} ... failed:\n{words}")
    return result.stdout.strip()
