"""A version comes as a zip and becomes a plain folder, whole or not at all."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from mindprint import ApiError, BadReply, ConnectionFailed, InvalidRequest
from mindprint.downloads import CARD, CONFIG, MANIFEST, WEIGHTS
from zips import WEIGHTS_OF, zipped


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


async def test_a_version_becomes_a_folder(caller: Any, tmp_path: Path) -> None:
    caller.server.answers_with(httpx.Response(200, content=zipped()))
    folder = tmp_path / "deep" / "v7"
    assert await caller.call("adapters.download", "user/ann", 7, folder) == folder
    assert caller.server.asked[0].url.path == "/v1/adapters/user/ann/versions/7/download"
    assert contents(folder).keys() == {CONFIG, WEIGHTS, MANIFEST}
    assert contents(folder)[WEIGHTS] == WEIGHTS_OF
    assert names(folder.parent) == ["v7"], "nothing else stays"


async def test_an_empty_folder_is_filled_and_stays_the_same(caller: Any, tmp_path: Path) -> None:
    caller.server.answers_with(httpx.Response(200, content=zipped()))
    folder = tmp_path / "v7"
    folder.mkdir()
    before = folder.stat().st_ino
    await caller.call("adapters.download", "user/ann", 7, folder)
    assert contents(folder).keys() == {CONFIG, WEIGHTS, MANIFEST}
    assert folder.stat().st_ino == before


@pytest.mark.parametrize("is_made", [True, False])
async def test_a_model_card_comes_with_the_version(caller: Any, tmp_path: Path, is_made: bool) -> None:
    caller.server.answers_with(httpx.Response(200, content=zipped(**{CARD: b"# user/ann@7"})))
    folder = tmp_path / "v7"
    if is_made:
        folder.mkdir()
    await caller.call("adapters.download", "user/ann", 7, folder)
    assert contents(folder).keys() == {CONFIG, WEIGHTS, MANIFEST, CARD}
    assert contents(folder)[CARD] == b"# user/ann@7"


async def test_a_folder_that_holds_something_is_not_touched(caller: Any, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    for folder in (tmp_path, tmp_path / "mine"):
        with pytest.raises(InvalidRequest, match="is not empty: name a folder"):
            await caller.call("adapters.download", "user/ann", 7, folder)
    assert not caller.server.asked
    assert names(tmp_path) == ["mine"]


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "sub/adapter_config.json", "extra.py", "..\\outside"])
async def test_no_other_names_are_taken(caller: Any, tmp_path: Path, name: str) -> None:
    caller.server.answers_with(httpx.Response(200, content=zipped(**{name: b"evil"})))
    folder = tmp_path / "v7"
    await caller.call("adapters.download", "user/ann", 7, folder)
    assert contents(folder).keys() == {CONFIG, WEIGHTS, MANIFEST}
    assert names(tmp_path) == ["v7"]


async def test_a_download_that_breaks_is_made_again_whole(caller: Any, body: Any, tmp_path: Path) -> None:
    whole = zipped()
    caller.server.answers_with(
        httpx.Response(200, stream=body(whole[:500], httpx.ReadError("reset"))),
        httpx.Response(503, headers={"Retry-After": "1"}),
        httpx.Response(200, stream=body(whole[:100], whole[100:])),
    )
    await caller.call("adapters.download", "user/ann", 7, tmp_path / "v7")
    assert contents(tmp_path / "v7")[WEIGHTS] == WEIGHTS_OF
    assert len(caller.server.asked) == 3


async def test_attempts_are_bounded_and_nothing_stays(caller: Any, body: Any, tmp_path: Path) -> None:
    caller.server.answers_with(httpx.Response(200, stream=body(zipped()[:500], httpx.ReadError("reset"))))
    with pytest.raises(ConnectionFailed):
        await caller.call("adapters.download", "user/ann", 7, tmp_path / "v7")
    assert len(caller.server.asked) == 3
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"<html>", "cannot be unpacked"),
        (zipped()[:-30], "cannot be unpacked"),
        (zipped().replace(b"weights", b"weighty", 1), "cannot be unpacked"),
        (zipped(**{CONFIG: None}), "is no adapter version: .*adapter_config.json"),
        (zipped(**{MANIFEST: b"nonsense"}), "cannot be unpacked"),
        (zipped(**{MANIFEST: b"[]"}), "not those of their manifest"),
        (zipped(**{WEIGHTS: b"other"}), "not those of their manifest"),
    ],
)
async def test_what_is_no_version(caller: Any, tmp_path: Path, content: bytes, told: str) -> None:
    caller.server.answers_with(httpx.Response(200, content=content))
    with pytest.raises(BadReply, match=told):
        await caller.call("adapters.download", "user/ann", 7, tmp_path / "v7")
    assert names(tmp_path) == []


async def test_a_download_is_bounded_as_it_comes_and_as_it_is_unpacked(caller: Any, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr(MANIFEST, b"{}")
        out.writestr(CONFIG, b"0" * 100_000)
    caller.server.answers_with(httpx.Response(200, content=packed.getvalue()))
    for most in (100, 10_000):
        with pytest.raises(BadReply, match=f"larger than {most} bytes"):
            await caller.call("adapters.download", "user/ann", 7, tmp_path / "v7", max_bytes=most)
    assert names(tmp_path) == []


async def test_files_that_retention_removed(caller: Any, samples: Any, tmp_path: Path) -> None:
    caller.server.answers_with(httpx.Response(409, json=samples.refusal("version_files_gone", "the files are gone")))
    with pytest.raises(ApiError, match="the files are gone") as caught:
        await caller.call("adapters.download", "user/ann", 7, tmp_path / "v7")
    assert caught.value.code == "version_files_gone"
    assert names(tmp_path) == []
