from pathlib import Path

import pytest
import xxhash

from mergeopt.checkpoint.hashing import InputHashes
from mergeopt.errors import MergeoptError


def xxh3(data: bytes) -> str:
    return f"xxh3-128:{xxhash.xxh3_128(data).hexdigest()}"


def blob(folder: Path, name: str, content: bytes) -> Path:
    """A file of a Hub cache: a link to a blob of that name."""
    snapshot, blobs = folder / "snapshots" / "c0ffee", folder / "blobs"
    snapshot.mkdir(parents=True, exist_ok=True)
    blobs.mkdir(exist_ok=True)
    (blobs / name).write_bytes(content)
    link = snapshot / f"{name[:4]}.safetensors"
    link.symlink_to(Path("../../blobs") / name)
    return link


def test_files_are_hashed(tmp_path: Path) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number]) * 3_000_000)
    expected = {file: xxh3(file.read_bytes()) for file in files}
    assert InputHashes.start([*files, files[0]]).result() == expected


def test_a_hub_cache_knows_its_hashes(tmp_path: Path) -> None:
    known = blob(tmp_path, "ab" * 32, b"not what the name says: it is not read")
    sha1 = blob(tmp_path, "cd" * 20, b"small")
    assert InputHashes.start([known, sha1]).result() == {
        known: "sha256:" + "ab" * 32,
        sha1: xxh3(b"small"),
    }


def test_a_link_that_is_no_blob_is_hashed(tmp_path: Path) -> None:
    (tmp_path / ("ab" * 32)).write_bytes(b"x")
    link = tmp_path / "link"
    link.symlink_to("ab" * 32)
    assert InputHashes.start([link]).result() == {link: xxh3(b"x")}


def test_a_missing_file_is_reported_by_result(tmp_path: Path) -> None:
    hashes = InputHashes.start([tmp_path / "gone"])
    with pytest.raises(MergeoptError, match="gone: No such file"):
        hashes.result()


def test_cancel_stops_early(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)  # hours of hashing
    hashes = InputHashes.start([tmp_path / "sparse"])
    hashes.cancel()
    with pytest.raises(MergeoptError, match="cancelled"):
        hashes.result()
