"""A version as one file to take away: a plain PEFT folder with its manifest, in a zip that nothing had to compress."""

from __future__ import annotations

import asyncio
import tempfile
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

from mindprint_server.adapters.files import CONFIG, MANIFEST, WEIGHTS

PIECE = 1 << 20


def pack(folder: Path, beside: Path) -> IO[bytes]:
    """The zip of a version's folder, as a file without a name in `beside`. Raises FileNotFoundError."""
    beside.mkdir(parents=True, exist_ok=True)
    file = tempfile.TemporaryFile(dir=beside)  # noqa: SIM115 (whoever sends it closes it)
    try:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, strict_timestamps=False) as zip:
            for name in (CONFIG, WEIGHTS, MANIFEST):
                zip.write(folder / name, name)
    except BaseException:
        file.close()
        raise
    return file


async def pieces(file: IO[bytes]) -> AsyncIterator[bytes]:
    """The whole file, read off the event loop; it is closed, and with that gone, at the end."""
    try:
        file.seek(0)
        while piece := await asyncio.to_thread(file.read, PIECE):
            yield piece
    finally:
        file.close()
