"""Exports all that is stored of a user as one zip."""

from __future__ import annotations

import asyncio
import json
import zipfile
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from typing import IO, Any

from pydantic import BaseModel

from mindprint.types.keys import AdapterKey
from mindprint_server.adapters.storage import AdapterStorage
from mindprint_server.context import ServerContext
from mindprint_server.operation.disk import filled_temporary_file
from mindprint_server.store import RecordNotFound
from mindprint_server.store.erasure_plan import NO_PARITY_ITEM

PAGE = 200
"""Rows that are read from the store at a time."""


class UserExporter:
    """Packs a user's rows, and the files of the user's own adapter.

    Args:
        ctx: Settings and store of the server.
        storage: Keeps the files of versions.
    """

    def __init__(self, ctx: ServerContext, *, storage: AdapterStorage) -> None:
        self._folder = ctx.settings.data_dir / "downloads"
        self._store = ctx.store
        self._storage = storage

    async def export(self, user_id: str) -> IO[bytes]:
        """Return a zip of all that is stored of a user, in an open temporary file without a name.

        It holds `user.json`, `engagements.jsonl`, `profiles.jsonl`, `traces.jsonl`, `lineage.jsonl` (the versions that
        learned from the user) and a PEFT folder `adapters/<number>/` for each version of the user's adapter with files.

        Raises:
            RecordNotFound: The user does not exist.
            StorageFull: The disk has no space for the zip.
            ArtifactUnavailable: This server cannot get the files of a version now.
        """
        user = await self._store.users.get(user_id)
        with (
            filled_temporary_file(self._folder) as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as zip,
        ):
            about = {"user": user.model_dump(mode="json"), "exported_at": datetime.now(UTC).isoformat()}
            zip.writestr("user.json", json.dumps(about, ensure_ascii=False, indent=1))
            await _write_lines(zip, "engagements.jsonl", self._engagements(user_id))
            await _write_lines(zip, "profiles.jsonl", self._profiles(user_id))
            await _write_lines(zip, "traces.jsonl", self._traces(user_id))
            await _write_lines(zip, "lineage.jsonl", self._lineage(user_id))
            await self._write_adapters(zip, AdapterKey.user(user_id))
        return file

    async def _engagements(self, user_id: str) -> AsyncIterator[Iterable[BaseModel]]:
        after = None
        while page := await self._store.engagements.list_page(user_id, after=after, limit=PAGE):
            yield page
            after = page[-1].id

    async def _profiles(self, user_id: str) -> AsyncIterator[Iterable[BaseModel]]:
        yield await self._store.profiles.list_versions(user_id)

    async def _traces(self, user_id: str) -> AsyncIterator[Iterable[BaseModel]]:
        after = None
        while page := await self._store.traces.find(user=user_id, after=after, limit=PAGE):
            yield page
            after = page[-1].id

    async def _lineage(self, user_id: str) -> AsyncIterator[Iterable[BaseModel]]:
        for key, number in await self._store.lineage.list_versions_of_user(user_id):
            lineage = await self._store.lineage.get(key, number)
            # Of a cohort's version only what is this user's: the others are other persons.
            mine = [trace for trace in lineage.traces if trace.user_id == user_id]
            by_user = {name: getattr(lineage, name) for name in ("fast", "rejected", "held_out")}
            only = {name: {user_id: ids.get(user_id, [])} for name, ids in by_user.items()}
            changes: dict[str, Any] = {"trace_ids": [trace.trace_id for trace in mine]}
            if AdapterKey(key).kind == "cohort":
                changes["parity_items"] = [NO_PARITY_ITEM]
            manifest = lineage.version.manifest.model_copy(update=changes)
            version = lineage.version.model_copy(update={"manifest": manifest})
            yield [lineage.model_copy(update={**only, "traces": mine, "version": version})]

    async def _write_adapters(self, zip: zipfile.ZipFile, key: str) -> None:
        try:
            versions = (await self._store.adapters.get(key)).versions
        except RecordNotFound:
            return
        for version in versions:
            if version.files:
                stored = await self._store.versions.get(key, version.version)
                with await self._storage.open_archive(stored) as packed:
                    await asyncio.to_thread(_copy_archive, packed, zip, f"adapters/{version.version}")


def _copy_archive(packed: IO[bytes], zip: zipfile.ZipFile, folder: str) -> None:
    with zipfile.ZipFile(packed) as archive:
        for name in archive.namelist():
            with archive.open(name) as source, zip.open(f"{folder}/{name}", "w", force_zip64=True) as to:
                while piece := source.read(1 << 20):
                    to.write(piece)


async def _write_lines(zip: zipfile.ZipFile, name: str, pages: AsyncIterator[Iterable[BaseModel]]) -> None:
    with zip.open(name, "w", force_zip64=True) as out:
        async for page in pages:
            lines = b"".join(row.model_dump_json().encode() + b"\n" for row in page)
            await asyncio.to_thread(out.write, lines)
