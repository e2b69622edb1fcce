"""Write a version's zip to disk while it arrives, and unpack it into a plain PEFT folder."""

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
from mindprint.private_files import FILE

CONFIG, WEIGHTS, MANIFEST = "adapter_config.json", "adapter_model.safetensors", "manifest.json"
CARD = "README.md"
MAX_BYTES = 4 * 2**30
"""Maximum size of a zip, and of the files unpacked from it."""
_PIECE = 2**20


@contextmanager
def opened(folder: Path, max_bytes: int) -> Iterator[Archive]:
    """Yield an archive that receives a zip and unpacks it as `folder`. After a failure nothing is left behind.

    Args:
        folder: Where the files go. It must be absent or empty.
        max_bytes: Maximum size of the zip, and of the files unpacked from it.

    Raises:
        InvalidRequest: The folder is not empty.
        OSError: The folder cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidRequest(f"{folder} is not empty: name a folder that is empty or not there yet")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Work in the same parent folder, so that the finished folder can be renamed into place.
    with (
        tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as beside,
        (Path(beside) / "zip").open("w+b") as stream,
    ):
        yield Archive(folder, Path(beside) / "files", stream, max_bytes)


@contextmanager
def opened_file(file: Path, max_bytes: int) -> Iterator[NewFile]:
    """Yield a sink that becomes `file`, readable by its owner alone. After a failure nothing is left behind.

    Args:
        file: The new file.
        max_bytes: Maximum size.

    Raises:
        InvalidRequest: The file exists.
        OSError: It cannot be written.
    """
    if file.exists():
        raise InvalidRequest(f"{file} exists: name a file that is not there yet")
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as beside:
        part = Path(beside) / "part"
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE), "wb") as stream:
            yield NewFile(file, part, stream, max_bytes)


class NewFile:
    """A file that is being received."""

    def __init__(self, file: Path, part: Path, stream: BinaryIO, max_bytes: int) -> None:
        self._file = file
        self._part = part
        self._stream = stream
        self._max_bytes = max_bytes

    def write(self, chunk: bytes) -> None:
        """Append a piece.

        Raises:
            BadReply: The file is larger than the bound.
        """
        self._stream.write(chunk)
        if self._stream.tell() > self._max_bytes:
            raise BadReply(f"the download is larger than {self._max_bytes} bytes: allow more with `max_bytes`")

    def finish(self) -> Path:
        """Put the file in its place and return its path."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._part.rename(self._file)
        return self._file


class Archive:
    """A zip that is being received."""

    def __init__(self, folder: Path, parts: Path, stream: BinaryIO, max_bytes: int) -> None:
        self._folder = folder
        self._parts = parts
        self._stream = stream
        self._max_bytes = max_bytes

    def write(self, chunk: bytes) -> None:
        """Append a piece of the zip.

        Raises:
            BadReply: The zip is larger than the bound.
        """
        self._stream.write(chunk)
        self._bound(self._stream.tell())

    def finish(self) -> Path:
        """Unpack the files of a version and its model card, and return the folder. Other files are ignored.

        Raises:
            BadReply: It is no zip, a file is missing, or the weights are not those of the manifest.
        """
        self._parts.mkdir()
        try:
            with zipfile.ZipFile(self._stream) as archive:
                manifest = json.loads(self._unpack(archive, MANIFEST).read_bytes())
                self._unpack(archive, CONFIG)
                if CARD in archive.namelist():  # older servers write none
                    self._unpack(archive, CARD)
                weights = self._unpack(archive, WEIGHTS)
        except KeyError as error:
            raise BadReply(f"the download is no adapter version: {error.args[0]}") from error
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
            raise BadReply(f"the download cannot be unpacked ({error}): try again") from error
        with weights.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if not isinstance(manifest, dict) or manifest.get("weights_sha256") != digest:
            raise BadReply("the downloaded weights are not those of their manifest: look at the server's log")
        self._place()
        return self._folder

    def _unpack(self, archive: zipfile.ZipFile, name: str) -> Path:
        size = 0
        with archive.open(name) as packed, (self._parts / name).open("xb") as out:
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
        # Move the files, because the folder may be a working directory. The configuration comes last: a folder without
        # it is no adapter.
        for file in sorted(self._parts.iterdir(), key=lambda file: file.name == CONFIG):
            file.replace(self._folder / file.name)

    def _bound(self, size: int) -> None:
        if size > self._max_bytes:
            raise BadReply(f"the download is larger than {self._max_bytes} bytes: allow more with `max_bytes`")
