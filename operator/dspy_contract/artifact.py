"""A version's files: their digest, by which the pod knows that it loads what was judged, and their packed form.

Pure. The digest covers the names and the content of all files; the archive is the same for the same files.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Mapping

NOT_COUNTED = frozenset({"registered_model_meta"})
"""Files that MLflow's client adds when it downloads."""

LARGEST_UNPACKED_BYTES = 64 << 20
"""An archive that says more than this is none of ours."""


def digest_of(hashes: Mapping[str, str]) -> str:
    """The digest of files, by path, of which each has this SHA-256 (hex)."""
    digest = hashlib.sha256()
    for path in sorted(hashes.keys() - NOT_COUNTED):
        digest.update(f"{path}\0{hashes[path]}\0".encode())
    return digest.hexdigest()


def pack(files: Mapping[str, bytes]) -> bytes:
    """The files as a compressed archive."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as zipped, tarfile.open(fileobj=zipped, mode="w") as archive:
        for path in sorted(files):
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(files[path]), 0o644
            archive.addfile(member, io.BytesIO(files[path]))
    return buffer.getvalue()


def unpack(content: bytes) -> dict[str, bytes]:
    """The files of an archive, by path. Raises ValueError for one that holds anything else than plain files inside."""
    files: dict[str, bytes] = {}
    left = LARGEST_UNPACKED_BYTES
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        for member in archive:
            left -= member.size
            reader = archive.extractfile(member) if member.isfile() else None
            parts = member.name.split("/")
            if reader is None or left < 0 or member.name.startswith("/") or ".." in parts:
                raise ValueError(f"{member.name} is no file that may be unpacked")
            files[member.name] = reader.read()
    return files
