"""Reads the multipart upload of a version: manifest and configuration into memory, the weights into a file."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from mindprint.private_files import FILE, make_private_folder
from mindprint_server.api.errors import ApiError
from mindprint_server.exceptions import Invalid, clean
from mindprint_server.operation.disk import full_disk_refused
from mindprint_server.settings import Settings

PARTS = ("manifest", "config", "weights")
WRITE_AT = 1 << 20
"""Bytes of weights that are collected before they are written to the file."""


@dataclass(frozen=True)
class Upload:
    manifest: bytes
    config: bytes
    weights: Path


@asynccontextmanager
async def receive(request: Request, settings: Settings) -> AsyncIterator[Upload]:
    """Yield the complete upload. The file of the weights is deleted at the end of the block, unless it was moved.

    Raises:
        ApiError: The body is not multipart (415), incomplete or malformed (400), or a text is too long (413).
        Invalid: A part is missing, repeated or unknown.
        StorageFull: The disk is full.
    """
    parts = Parts(_boundary(request), settings.max_body_bytes)
    path = await asyncio.to_thread(_new_file, settings.uploads_dir, settings.request_timeout_s)
    try:
        async for chunk in request.stream():
            parts.feed(chunk)
            if len(parts.weights) >= WRITE_AT:
                await asyncio.to_thread(_append, path, parts.take_weights())
        parts.finish()
        await asyncio.to_thread(_append, path, parts.take_weights())
        yield Upload(bytes(parts.texts["manifest"]), bytes(parts.texts["config"]), path)
    finally:
        await asyncio.to_thread(path.unlink, missing_ok=True)


class Parts:
    """Sorts the bytes of a multipart body by part. `weights` collects bytes until `take_weights` empties it."""

    def __init__(self, boundary: bytes, text_limit: int) -> None:
        self.texts = {"manifest": bytearray(), "config": bytearray()}
        self.weights = bytearray()
        self._text_limit = text_limit
        self._seen: list[str] = []
        self._part = ""
        self._header = (bytearray(), bytearray())
        self._disposition = b""
        self._complete = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._name,
                    "on_part_data": self._data,
                    "on_end": self._end,
                },
            )
        except FormParserError:
            raise _malformed("names a boundary that is longer than 256 characters") from None

    def feed(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _malformed(f"is malformed ({clean(str(error), 120)})") from None

    def take_weights(self) -> bytes:
        taken = bytes(self.weights)
        self.weights.clear()
        return taken

    def finish(self) -> None:
        if not self._complete:
            raise _malformed("ends before its last boundary")
        if missing := [name for name in PARTS if name not in self._seen]:
            message = f"the upload lacks {', '.join(missing)}: send the parts {', '.join(PARTS)}"
            raise Invalid("missing_part", message, param=missing[0])

    def _begin(self) -> None:
        self._disposition = b""

    def _header_end(self) -> None:
        field, value = self._header
        if field.lower() == b"content-disposition":
            self._disposition = bytes(value)
        self._header = (bytearray(), bytearray())

    def _name(self) -> None:
        name = parse_options_header(self._disposition)[1].get(b"name", b"").decode("latin-1")
        if name not in PARTS:
            message = f"the upload holds an unknown part {clean(name, 60)!r}: send the parts {', '.join(PARTS)}"
            raise Invalid("unknown_part", message)
        if name in self._seen:
            raise Invalid("repeated_part", f"the upload holds {name} twice: send it once", param=name)
        self._seen.append(name)
        self._part = name

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._part == "weights":
            self.weights += data[start:end]
            return
        text = self.texts[self._part]
        text += data[start:end]
        if len(text) > self._text_limit:
            message = f"the part {self._part} is larger than {self._text_limit} bytes: send a smaller one"
            raise ApiError(413, "body_too_large", message, param=self._part)

    def _end(self) -> None:
        self._complete = True


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        message = f"send multipart/form-data with the parts {', '.join(PARTS)}"
        raise ApiError(415, "unsupported_media_type", message)
    return options[b"boundary"]


def _malformed(how: str) -> ApiError:
    return ApiError(400, "invalid_multipart", f"the upload {how}: nothing of it was kept, send it again")


def _new_file(folder: Path, stale_s: float) -> Path:
    """Make an empty file of a new name.

    Files that a killed server left are removed first. These are the files that were not written to for `stale_s`
    seconds: a stalled upload is refused after that time.
    """
    path = folder / f"{uuid.uuid4().hex}.safetensors"
    with full_disk_refused():
        make_private_folder(folder)
        for leftover in folder.iterdir():
            with suppress(FileNotFoundError):  # Another upload may end, and delete its file, meanwhile.
                if time.time() - leftover.stat().st_mtime > stale_s:
                    leftover.unlink()
        path.touch(FILE, exist_ok=False)
    return path


def _append(path: Path, data: bytes) -> None:
    with full_disk_refused(), path.open("ab") as file:
        file.write(data)
