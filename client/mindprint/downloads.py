"""A version's zip, kept on disk while it comes, and the plain PEFT folder that is made of it."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mindprint.exceptions import BadReply, InvalidRequest

CONFIG, WEIGHTS, MANIFEST = "adapter_config.json", "adapter_model.safetensors", "manifest.json"
MOST_BYTES = 4 * 2**30
"""The largest zip that is taken, and the most that is unpacked of it."""
_PIECE = 2**20


@contextmanager
def opened(folder: Path, most_bytes: int) -> Iterator[Archive]:
    """Takes a zip, to be unpacked as `folder`, which must be absent or empty. Nothing stays if it does not get there.

    Raises InvalidRequest if something lies in `folder`, OSError if it cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidRequest(f"{folder} is not empty: name a folder that is empty or not there yet")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside it, so that what is whole can be renamed.
    with (
        tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as beside,
        (Path(beside) / "zip").open("w+b") as stream,
    ):
        yield Archive(folder, Path(beside) / "files", stream, most_bytes)


class Archive:
    """The zip as far as it has come."""

    def __init__(self, folder: Path, parts: Path, stream: BinaryIO, most_bytes: int) -> None:
        self._folder = folder
        self._parts = parts
        self._stream = stream
        self._most_bytes = most_bytes

    def write(self, chunk: bytes) -> None:
        self._stream.write(chunk)
        self._bound(self._stream.tell())

    def finish(self) -> Path:
        """Unpack the three files of a version by their names, whatever else is there. Returns the folder.

        Raises BadReply if it is no zip, a file is missing, or the weights are not those that the manifest tells of.
        """
        self._parts.mkdir()
        try:
            with zipfile.ZipFile(self._stream) as found:
                told = json.loads(self._unpack(found, MANIFEST).read_bytes())
                self._unpack(found, CONFIG)
                weights = self._unpack(found, WEIGHTS)
        except KeyError as error:
            raise BadReply(f"the download is no adapter version: {error.args[0]}") from error
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
            raise BadReply(f"the download cannot be unpacked ({error}): try again") from error
        with weights.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if not isinstance(told, dict) or told.get("weights_sha256") != digest:
            raise BadReply("the downloaded weights are not those of their manifest: look at the server's log")
        self._place()
        return self._folder

    def _unpack(self, found: zipfile.ZipFile, name: str) -> Path:
        size = 0
        with found.open(name) as packed, (self._parts / name).open("xb") as out:
            while piece := packed.read(_PIECE):
                size += len(piece)
                self._bound(size)
                out.write(piece)
            out.flush()
            os.fsync(out.fileno())
        return self._parts / name

    def _place(self) -> None:
        if not self._folder.exists():
            self._parts.replace(self._folder)
            return
        # It may be somebody's working directory, so it stays. Without its configuration nobody takes it for an adapter.
        for name in (MANIFEST, WEIGHTS, CONFIG):
            (self._parts / name).replace(self._folder / name)

    def _bound(self, size: int) -> None:
        if size > self._most_bytes:
            raise BadReply(f"the download is larger than {self._most_bytes} bytes: allow more with `most_bytes`")
