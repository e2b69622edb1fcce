from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import fsspec  # type: ignore[import-untyped]
import pytest

from mindprint_server.adapters.artifact_folders import FILES
from mindprint_server.adapters.artifact_owner import NotOwned
from mindprint_server.adapters.remote_artifacts import ArtifactUrlError, RemoteArtifacts, local_folder

DATABASE = "0" * 32
DIGESTS = ("a" * 64, "b" * 64)


@pytest.fixture
def url() -> Iterator[str]:
    url = f"memory://{uuid4().hex}/adapters"
    yield url
    fsspec.filesystem("memory").rm(url, recursive=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    for name in FILES:
        (folder / name).write_text(name)
    return folder


def test_files_come_back(url: str, folder: Path, tmp_path: Path) -> None:
    artifacts = RemoteArtifacts(url, {})
    artifacts.put(DIGESTS[0], folder)
    fetched = tmp_path / "fetched"
    fetched.mkdir()
    RemoteArtifacts(url, {}).get(DIGESTS[0], fetched)
    assert {file.name: file.read_text() for file in fetched.iterdir()} == {name: name for name in FILES}


def test_missing_artifact_is_not_found(url: str, tmp_path: Path) -> None:
    artifacts = RemoteArtifacts(url, {})
    artifacts.claim(DATABASE, ())
    with pytest.raises(FileNotFoundError):
        artifacts.get(DIGESTS[0], tmp_path)
    artifacts.remove(DIGESTS[0])


def test_ages_are_of_artifacts_only(url: str, folder: Path) -> None:
    artifacts = RemoteArtifacts(url, {})
    assert artifacts.list_ages(()) == {}
    artifacts.claim(DATABASE, ())
    for digest in DIGESTS:
        artifacts.put(digest, folder)
    assert set(artifacts.list_ages(())) == set(DIGESTS)
    assert all(0 <= age_s < 60 for age_s in artifacts.list_ages(()).values())
    assert set(artifacts.list_ages(DIGESTS[:1])) == set(DIGESTS[1:])
    artifacts.remove(DIGESTS[0])
    assert set(artifacts.list_ages(())) == set(DIGESTS[1:])


def test_artifact_whose_upload_broke_off_has_an_age_and_a_manifest(url: str, folder: Path) -> None:
    artifacts = RemoteArtifacts(url, {})
    (folder / "adapter_config.json").unlink()
    with pytest.raises(FileNotFoundError):
        artifacts.put(DIGESTS[0], folder)
    assert set(artifacts.list_ages(())) == {DIGESTS[0]}
    assert artifacts.list_manifests(()) == {DIGESTS[0]: "manifest.json"}
    assert artifacts.list_manifests(DIGESTS) == {}


def test_store_of_another_database_is_named(url: str) -> None:
    assert not RemoteArtifacts(url, {}).ping(DATABASE)
    RemoteArtifacts(url, {}).claim(DATABASE, ())
    with pytest.raises(NotOwned, match="belongs to another database: set another artifact_url"):
        RemoteArtifacts(url, {}).ping("1" * 32)


def test_of_two_databases_that_mark_a_store_at_once_one_gets_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = RemoteArtifacts(url, {})
    write = first._files.pipe_file

    def overtaken(path: str, value: bytes) -> None:
        write(path, value)
        write(path, b"1" * 32)

    monkeypatch.setattr(first._files, "pipe_file", overtaken)
    with pytest.raises(NotOwned):
        first.claim(DATABASE, ())


def test_ping_writes_nothing(url: str) -> None:
    files = fsspec.filesystem("memory")
    RemoteArtifacts(url, {}).claim(DATABASE, ())
    (marker,) = files.ls(url, detail=False)
    written = files.modified(marker)
    assert RemoteArtifacts(url, {}).ping(DATABASE)
    assert files.modified(marker) == written


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        ("/srv/artifacts", "/srv/artifacts"),
        ("artifacts", "artifacts"),
        ("file:///srv/artifacts", "/srv/artifacts"),
        ("s3://bucket/x", None),
        ("memory://x", None),
    ],
)
def test_folder_is_used_in_place_and_any_other_url_is_not(url: str, folder: str | None) -> None:
    assert local_folder(url) == (None if folder is None else Path(folder))


def test_unknown_kind_of_url_is_refused_in_words() -> None:
    with pytest.raises(ArtifactUrlError, match=r"cannot open artifact_url of kind odd:// .*: correct it"):
        RemoteArtifacts("odd://bucket", {})
