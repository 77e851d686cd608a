"""A version's files: a directory, an archive that the operator made of one, or a download; with the right digest.

`python -m dspy_runtime.artifact` is what a pod's init container runs: it puts the version of DSPY_RUNTIME_MODEL below
the folder that it is told, and waits for a registry that is away without end: that is no crash of this version.
"""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import time
from pathlib import Path

import click

from dspy_contract import logs
from dspy_contract.artifact import digest_of, unpack
from dspy_contract.logs import Logger
from dspy_runtime.failures import (
    ModelChangedError,
    ModelLoadError,
    ModelNotFoundError,
    RegistryUnavailableError,
    described,
    explained,
)
from dspy_runtime.settings import Settings, quiet_libraries

RETRY_SECONDS, LONGEST_RETRY_SECONDS = 1.0, 15.0
_URIS = ("models:/", "runs:/")
_MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
log = Logger(__name__)


def fetched(model: str, target: Path, digest: str) -> Path:
    """The directory with the version's files, put at `target` unless it is one already.

    Waits for a registry. Raises ModelNotFoundError, ModelLoadError for an archive that is none, and ModelChangedError
    when the files have another digest than the one given; empty is any.
    """
    folder = _downloaded(model, target) if model.startswith(_URIS) else _local(Path(model), target)
    if digest and (found := digest_of(_hashes(folder))) != digest:
        raise ModelChangedError(
            f"the files of {model} have the digest {found[:12]} and the revision was made of {digest[:12]}: "
            "the version was changed in the registry after it was resolved"
        )
    return folder


def _local(path: Path, target: Path) -> Path:
    if path.suffix == ".gz" and path.is_file():
        try:
            files = unpack(path.read_bytes())
        except (ValueError, tarfile.TarError, OSError, EOFError) as error:
            raise ModelLoadError(f"the archive {path.name} cannot be unpacked: {described(error)}") from error
        shutil.rmtree(target, ignore_errors=True)  # a container that ran before left what its imports wrote
        for name, content in files.items():
            file = target / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        return target
    if not (path / "MLmodel").is_file():
        raise ModelNotFoundError(f"{path} holds no MLmodel file; name a directory that MLflow logged or a models:/ uri")
    return path


def _downloaded(uri: str, target: Path) -> Path:
    delay = RETRY_SECONDS
    while True:
        shutil.rmtree(target, ignore_errors=True)  # what an earlier try left is no part of this one
        try:
            return _download(uri, target)
        except RegistryUnavailableError as error:
            log.warning(f"{error}; trying again in {delay:.0f} s", reason=error.reason)
            time.sleep(delay)
            delay = min(delay * 2, LONGEST_RETRY_SECONDS)


def _download(uri: str, target: Path) -> Path:
    import mlflow.artifacts
    import requests
    from mlflow.exceptions import MlflowException

    target.mkdir(parents=True, exist_ok=True)
    try:
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(target)))
    except MlflowException as error:
        if error.error_code in _MISSING:
            raise ModelNotFoundError(f"the registry has no {uri}") from error
        raise RegistryUnavailableError(f"the registry did not deliver {uri}: {error.error_code}") from error
    except (requests.RequestException, OSError) as error:
        raise RegistryUnavailableError(f"the registry did not deliver {uri}: {type(error).__name__}") from error


def _hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file, by its path below the folder."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


@click.command()
@click.argument("target", type=click.Path(path_type=Path))
def main(target: Path) -> None:
    """Puts the version of DSPY_RUNTIME_MODEL at TARGET, from the registry at MLFLOW_TRACKING_URI."""
    quiet_libraries()
    settings = Settings()
    logs.configure(settings.log_level)
    with explained(settings.termination_log):
        fetched(settings.model, target, settings.digest)


if __name__ == "__main__":
    main()
