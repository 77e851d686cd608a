"""A version's files, packed: the same files make the same archive and digest, and nothing leaves its folder."""

from __future__ import annotations

import gzip
import io
import tarfile

import pytest

from dspy_contract.artifact import digest_of, pack, unpack

FILES = {"MLmodel": b"flavors: {}", "data/model.pkl": bytes(range(256)), "empty": b""}


def test_what_is_packed_comes_out_again_and_is_the_same_each_time() -> None:
    assert unpack(pack(FILES)) == FILES
    assert pack(FILES) == pack(dict(reversed(FILES.items())))


def test_the_digest_is_of_all_names_and_contents_in_any_order() -> None:
    digest = digest_of({"a": "1", "b/c": "2"})
    assert digest == digest_of({"b/c": "2", "a": "1"})
    assert digest == digest_of({"b/c": "2", "a": "1", "registered_model_meta": "of MLflow's client"})
    assert (
        len({digest, digest_of({"a": "1"}), digest_of({"a": "2", "b/c": "2"}), digest_of({"a": "1", "b/d": "2"})}) == 4
    )


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "data/../../outside"])
def test_no_archive_leaves_its_folder(name: str) -> None:
    with pytest.raises(ValueError, match="no file that may be unpacked"):
        unpack(pack({name: b"x"}))


def test_an_archive_of_anything_else_than_files_is_refused() -> None:
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb") as zipped, tarfile.open(fileobj=zipped, mode="w") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(ValueError, match="link is no file"):
        unpack(buffer.getvalue())
