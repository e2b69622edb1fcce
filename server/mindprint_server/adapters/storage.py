"""The files of versions: written under a digest, archived for download, and removed by retention or as orphans.

The row of a version or of an open publication names its artifact. One that no row names is an orphan: a crash left it,
or an upload has just written it. An upload is stored under an active lease, and its manifest says under which. So an
orphan whose lease is not active is removed at once. Its row cannot come any more. One without a manifest is removed
when it is old (`artifact_min_orphan_age_s`).
"""

from __future__ import annotations

import asyncio
import json
import zipfile
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

import structlog

from mindprint.types import DEFAULT_TENANT
from mindprint.types.keys import VersionRef
from mindprint_server.adapters import model_card
from mindprint_server.adapters.artifact_folders import CONFIG, FILES, is_digest
from mindprint_server.adapters.artifacts import ArtifactStore
from mindprint_server.adapters.old_layout import OldFolders
from mindprint_server.context import ServerContext
from mindprint_server.engine import AdapterRef
from mindprint_server.exceptions import ArtifactUnavailable, StorageFull
from mindprint_server.operation.disk import filled_temporary_file
from mindprint_server.store import VersionRecord
from mindprint_server.tenancy import current_tenant, in_tenant

log = structlog.get_logger(__name__)
CHUNK_BYTES = 1 << 20
Content = tuple[str, tuple[str, ...]]
"""Adapter key and sorted trace ids: the same for a lease and for the versions that are uploaded under it."""


class AdapterStorage:
    """Writes, opens, archives and removes the files of versions.

    Args:
        ctx: Settings, store and metrics of the server.
        artifacts: Keeps the files.
    """

    def __init__(self, ctx: ServerContext, *, artifacts: ArtifactStore) -> None:
        self._settings = ctx.settings
        self._supervisor = ctx.supervisor
        self._store = ctx.store
        self._engine = ctx.engine
        self._metrics = ctx.metrics
        self._artifacts = artifacts
        self._downloads = ctx.settings.data_dir / "downloads"
        self._old_folders = OldFolders(ctx.settings.data_dir / "adapters")
        self._upkeep: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take over the folders of an older release, and begin to collect orphans."""
        await self._artifacts.start()
        await self.import_old_folders()
        self._upkeep = self._supervisor.start_loop("artifact upkeep", self.collect, self._pause)

    async def stop(self) -> None:
        """Stop collecting, and end the calls of the artifact store."""
        if self._upkeep is not None:
            self._upkeep.cancel()
            await asyncio.gather(self._upkeep, return_exceptions=True)
        await self._artifacts.stop()

    def ref(self, version: VersionRecord) -> AdapterRef:
        """Return what the engine needs to know of a version. Load it inside `open`, which makes its folder."""
        path, tenant = self._artifacts.folders.path(version.artifact or "none"), current_tenant()
        return AdapterRef(version.adapter, version.version, version.digest, version.engine_id, path, tenant)

    async def write(self, engine_id: int, *, weights: Path, config: bytes, manifest: str) -> str:
        """Store the files of a new version, durably, and return their digest.

        Args:
            engine_id: The version's id in the engine.
            weights: The uploaded safetensors file; it is moved.
            config: Content of adapter_config.json.
            manifest: Content of manifest.json.

        Raises:
            ArtifactUnavailable: The artifact store cannot be written.
            StorageFull: The disk is full. Nothing remains of the files.
        """
        return await self._artifacts.write(engine_id, weights=weights, config=config, manifest=manifest)

    @asynccontextmanager
    async def open(self, version: VersionRecord) -> AsyncIterator[AdapterRef]:
        """Keep the verified files of a version on this server's disk during the block. They are fetched if needed.

        Raises:
            ArtifactUnavailable: This server cannot get them now.
        """
        async with self._artifacts.hold(_artifact_of(version), version.engine_id):
            yield self.ref(version)

    async def check(self, version: VersionRecord) -> None:
        """Verify the files of a version after the engine refused them.

        Raises:
            ArtifactUnavailable: They are missing or damaged, so the version is not at fault.
        """
        await self._artifacts.check(_artifact_of(version), version.engine_id)

    async def remove(self, version: VersionRecord) -> None:
        """Remove the files of a version from the artifact store and from this server's disk.

        Raises:
            ArtifactUnavailable: The artifact store is out of reach. The files are removed later, as orphans.
        """
        if version.artifact is not None:
            await self.remove_artifact(version.artifact)

    async def remove_artifact(self, digest: str) -> None:
        """Remove an artifact from the artifact store and from this server's disk.

        Raises:
            ArtifactUnavailable: The artifact store is out of reach.
        """
        await self._artifacts.remove(digest)

    async def open_archive(self, version: VersionRecord) -> IO[bytes]:
        """Pack the files of a version and its model card into an uncompressed zip. Its config names the base model.

        Returns:
            The zip as an open temporary file without a name. Closing it deletes it.

        Raises:
            ArtifactUnavailable: This server cannot get the files now.
            StorageFull: The disk has no space for the zip.
        """
        info = self._engine.info()
        base = model_card.name_base(self._settings, info) if version.base_digest == info.base_digest else None
        card = model_card.write_card(version, base, self._engine.tokenizer.chat_format)
        async with self.open(version) as adapter:
            return await asyncio.to_thread(self._pack, adapter.path, base, card)

    def _pack(self, folder: Path, base: model_card.BaseName | None, card: str) -> IO[bytes]:
        with (
            filled_temporary_file(self._downloads) as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, strict_timestamps=False) as zip,
        ):
            for name in FILES:
                try:
                    if name == CONFIG and base is not None:
                        zip.writestr(name, model_card.name_in_config((folder / name).read_bytes(), base))
                    else:
                        zip.write(folder / name, name)
                except FileNotFoundError as error:
                    what = "the files of the version cannot be read"
                    raise ArtifactUnavailable(what, "some are missing") from error
            zip.writestr(model_card.CARD, card)
        return file

    async def prune(self, key: str, *, keep: int, is_needed: Callable[[str, int], bool]) -> list[int]:
        """Remove the files of old versions of an adapter.

        The store is updated first: a crash in between leaves an orphan.

        Args:
            key: Adapter key.
            keep: Number of newest versions that keep their files.
            is_needed: Returns whether the engine needs a version. Its files are then kept until the next call.

        Returns:
            The numbers of the versions whose files were removed.

        Raises:
            ArtifactUnavailable: The artifact store is out of reach.
        """
        removed = []
        for number in await self._store.retention.list_prunable(key, keep):
            if is_needed(key, number):
                continue
            if await self._store.retention.mark_files_removed(key, number):
                removed.append(number)
                await self.remove(await self._store.versions.get(key, number))
        if removed:
            log.info("files of old versions were removed", adapter=key, versions=removed)
        return removed

    async def collect(self) -> bool:
        """Remove old files that no version names. Returns True, so that the upkeep goes on.

        Nothing is removed while the database names no artifact at all.

        Raises:
            ArtifactUnavailable: The artifact store is out of reach.
        """
        await self.import_old_folders()
        named = await self._store.versions.list_artifacts()
        # A server with a new database may be pointed at a full artifact store by mistake.
        old = await self._artifacts.list_old(self._settings.artifact_min_orphan_age_s, named=named) if named else set()
        await self._remove_orphans(named, old)
        return True

    async def remove_abandoned(self) -> None:
        """Remove files that no version names and that no upload will name. Their manifest says so, not their age.

        Raises:
            ArtifactUnavailable: The artifact store is out of reach.
        """
        await self._remove_orphans(await self._store.versions.list_artifacts(), set())

    async def _remove_orphans(self, named: Collection[str], old: Collection[str]) -> None:
        """Remove what has ended for good, and of `old` what has no manifest."""
        manifests = await self._artifacts.list_manifests(named)
        contents = {name: read_content(text) for name, text in manifests.items()}
        known = {name: content for name, content in contents.items() if content is not None}
        # Files, then leases, then rows: a row that comes later is of a lease that is active here.
        expected = await self._list_expected() if known else set()
        unmoved = {version.adapter for version in await self._list_unmoved()} if known else set()
        ended = {name for name, content in known.items() if content not in expected and content[0] not in unmoved}
        orphans = ended | (set(old) - known.keys())
        if orphans:
            orphans -= await self._store.versions.list_artifacts()
        for name in sorted(orphans):
            if not is_digest(name):
                await self._artifacts.remove_new(name)
            elif not self._artifacts.is_used(name):
                await self._artifacts.remove(name)
            else:
                continue
            self._metrics.artifacts_collected.inc()
            log.warning("files that no version names were removed", artifact=name)

    async def _list_expected(self) -> set[Content]:
        active = await self._store.leases.list_active()
        return {(lease.adapter, tuple(sorted(lease.trace_ids))) for lease in active}

    async def _list_unmoved(self) -> list[VersionRecord]:
        with in_tenant(DEFAULT_TENANT):  # older releases had no other one
            return await self._store.versions.list_without_artifact()

    async def import_old_folders(self) -> None:
        """Move the files of versions that an older release stored into the artifact store, verified."""
        waiting = await self._list_unmoved()
        with in_tenant(DEFAULT_TENANT):
            for version in waiting:
                await self._import(version)
        known = {(version.adapter, version.version) for version in waiting}
        min_age_s = self._settings.artifact_min_orphan_age_s
        await asyncio.to_thread(self._old_folders.remove_unknown, known, min_age_s)

    async def _import(self, version: VersionRecord) -> None:
        if not await asyncio.to_thread(self._old_folders.has, version):
            return
        name = VersionRef.of(version.adapter, version.version)
        if not await asyncio.to_thread(self._old_folders.is_whole, version):
            log.error("the old files of a version are damaged: they are not used", version=name)
            return
        try:
            digest = await self._artifacts.add(version.engine_id, self._old_folders.filler(version))
        except (ArtifactUnavailable, StorageFull) as error:
            log.error("the old files of a version were not moved yet", version=name, why=error.message)
            return
        await self._store.versions.set_artifact(version, digest)
        await asyncio.to_thread(self._old_folders.remove, version)
        log.info("the old files of a version are in the artifact store now", version=name, artifact=digest)

    async def _pause(self) -> None:
        await asyncio.sleep(self._settings.artifact_upkeep_interval_s)


def read_content(manifest: str) -> Content | None:
    """Return what the text of a manifest says that its version is of; None if it does not say it."""
    try:
        content = json.loads(manifest)
        return str(content["adapter"]), tuple(sorted(map(str, content["trace_ids"])))
    except (ValueError, KeyError, TypeError):
        return None


async def read_chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    """Yield a whole file in chunks, read in a thread, and close it at the end."""
    try:
        file.seek(0)
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk
    finally:
        file.close()


def _artifact_of(version: VersionRecord) -> str:
    if version.artifact is None:
        raise ArtifactUnavailable(
            "the files of the version cannot be read", "an older release stored them, on a server that has to start"
        )
    return version.artifact
