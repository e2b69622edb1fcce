from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from mindprint_server.adapters.artifact_folders import ArtifactFolders, DigestMismatch, artifact_digest, is_digest
from mindprint_server.adapters.artifact_owner import MARKER, NotOwned
from mindprint_server.exceptions import StorageFull

DATABASE = "0" * 32


def write(folders: ArtifactFolders, tmp_path: Path, engine_id: int = 1, weights: bytes = b"weights") -> str:
    upload = tmp_path / "upload"
    upload.write_bytes(weights)
    return folders.write(engine_id, weights=upload, config=b"{}", manifest="{}")


@pytest.fixture
def folders(tmp_path: Path) -> ArtifactFolders:
    return ArtifactFolders(tmp_path / "artifacts")


def test_folder_is_named_by_its_content(folders: ArtifactFolders, tmp_path: Path) -> None:
    digest = write(folders, tmp_path)
    assert sorted(file.name for file in folders.path(digest).iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
    ]
    assert [path.name for path in folders.root.iterdir()] == [digest]
    assert is_digest(digest)
    folders.verify(digest, 1)


def test_two_versions_share_no_folder(folders: ArtifactFolders, tmp_path: Path) -> None:
    digests = {write(folders, tmp_path, engine_id) for engine_id in (1, 2)}
    assert {path.name for path in folders.root.iterdir()} == digests
    assert len(digests) == 2


def test_digest_covers_every_file() -> None:
    files = {"adapter_config.json": "a", "adapter_model.safetensors": "b", "manifest.json": "c"}
    others = [artifact_digest(1, files | {name: "d"}) for name in files]
    assert len({artifact_digest(1, files), artifact_digest(2, files), *others}) == 5


def test_same_artifact_may_be_written_twice(folders: ArtifactFolders, tmp_path: Path) -> None:
    assert write(folders, tmp_path) == write(folders, tmp_path)
    assert len(list(folders.root.iterdir())) == 1


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "manifest.json"])
def test_changed_file_is_found(name: str, folders: ArtifactFolders, tmp_path: Path) -> None:
    digest = write(folders, tmp_path)
    (folders.path(digest) / name).write_bytes(b"other")
    with pytest.raises(DigestMismatch):
        folders.verify(digest, 1)
    (folders.path(digest) / name).unlink()
    with pytest.raises(FileNotFoundError):
        folders.verify(digest, 1)


def test_files_of_another_digest_leave_nothing(folders: ArtifactFolders, tmp_path: Path) -> None:
    source = folders.path(write(folders, tmp_path))

    def fill(folder: Path) -> None:
        for file in source.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())

    with pytest.raises(DigestMismatch):
        folders.add(1, fill, digest="0" * 64)
    assert list(folders.root.iterdir()) == [source]


@pytest.mark.parametrize("name", ["adapter_config.json", "manifest.json"])
def test_full_disk_leaves_nothing_of_a_version(
    name: str, folders: ArtifactFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = Path.open

    def full(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return usual(path, *args, **kwargs)

    with monkeypatch.context() as disk:
        disk.setattr(Path, "open", full)
        with pytest.raises(StorageFull, match="free some space"):
            write(folders, tmp_path)
    assert list(folders.root.iterdir()) == []
    assert len(list(folders.path(write(folders, tmp_path)).iterdir())) == 3


def test_only_old_partial_folders_are_removed(folders: ArtifactFolders) -> None:
    old, young = (folders.root / f".{name}.part" for name in ("old", "young"))
    for folder in (old, young):
        folder.mkdir(parents=True)
    before = time.time() - 1000
    os.utime(old, (before, before))
    folders.remove_partial(500)
    assert list(folders.root.iterdir()) == [young]


def test_manifests_are_of_artifacts_without_a_name_and_of_uploads(folders: ArtifactFolders, tmp_path: Path) -> None:
    named, orphan = (write(folders, tmp_path, engine_id) for engine_id in (1, 2))
    for name in (".new-1.part", f".{'0' * 64}-1.part"):
        (folders.root / name).mkdir()
        (folders.root / name / "manifest.json").write_text(name)
    (folders.root / ("0" * 64)).mkdir()
    assert folders.list_manifests([named]) == {orphan: "{}", ".new-1.part": ".new-1.part"}
    folders.remove_new(".new-1.part")
    assert folders.list_manifests([named, orphan]) == {}


def test_manifest_is_written_before_the_weights(
    folders: ArtifactFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed server leaves of an upload says whose it is."""
    weights, seen = tmp_path / "upload", list[str]()
    weights.write_bytes(b"weights")

    def look(source: Path, target: Path) -> None:
        seen.extend(file.name for file in target.parent.iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "move", look)
    with pytest.raises(KeyboardInterrupt):
        folders.write(1, weights=weights, config=b"{}", manifest="{}")
    assert "manifest.json" in seen


def test_removal_that_broke_off_is_ended_by_the_next_one(folders: ArtifactFolders, tmp_path: Path) -> None:
    """The weights stayed for a day, as a folder that nobody could tell from another."""
    digest = write(folders, tmp_path)
    folders.path(digest).rename(folders.root / f".{digest}-killed.part")
    folders.remove(digest)
    assert list(folders.root.iterdir()) == []


def test_files_that_cannot_be_removed_are_an_error(
    folders: ArtifactFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receipt of an erasure said that they were gone."""
    digest = write(folders, tmp_path)

    def refuse(path: Path, **_: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    with monkeypatch.context() as disk:
        disk.setattr(shutil, "rmtree", refuse)
        with pytest.raises(PermissionError):
            folders.remove(digest)
    folders.remove(digest)
    assert list(folders.root.iterdir()) == []


def test_folder_that_cannot_be_made_is_found_by_a_ping(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        ArtifactFolders(tmp_path / "file" / "artifacts").ping(DATABASE)
    ArtifactFolders(tmp_path / "new" / "artifacts").ping(DATABASE)
    assert (tmp_path / "new" / "artifacts").is_dir()


def test_folders_of_another_database_are_named(tmp_path: Path) -> None:
    assert not ArtifactFolders(tmp_path).ping(DATABASE)
    ArtifactFolders(tmp_path).claim(DATABASE, ())
    assert ArtifactFolders(tmp_path).ping(DATABASE)
    assert [file.name for file in tmp_path.iterdir()] == [MARKER]
    with pytest.raises(NotOwned, match=f"belongs to another database: .* remove its file {MARKER}"):
        ArtifactFolders(tmp_path).ping("1" * 32)


@pytest.mark.parametrize("has_hard_links", [True, False])
def test_marker_that_another_server_writes_first_stays(
    has_hard_links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On exFAT, SMB and FUSE, which have no hard links, a folder never became ready."""

    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    if not has_hard_links:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    folders = ArtifactFolders(tmp_path)
    folders._mark(tmp_path / MARKER, DATABASE)
    folders._mark(tmp_path / MARKER, "1" * 32)
    assert folders.ping(DATABASE)
    assert [file.name for file in tmp_path.iterdir()] == [MARKER]
    assert (tmp_path / MARKER).stat().st_mode & 0o077 == 0


def test_part_of_a_marker_that_a_crash_left_is_removed(folders: ArtifactFolders) -> None:
    folders.root.mkdir(parents=True, exist_ok=True)
    (folders.root / ".crashed.part").write_text(DATABASE)
    folders.remove_partial(0)
    assert list(folders.root.iterdir()) == []
