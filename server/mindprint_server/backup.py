"""Backup and restore: the rows of the database and the files of adapters, with a digest of each file.

A backup is a folder: `manifest.json`, `tables/<table>.jsonl`, `artifacts/<digest>/`. It appears under its name when it
is complete. These functions run on the server's host, beside a running server or without one.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, StringConstraints, ValidationError

import mindprint
from mindprint.private_files import make_private_folder, private_umask
from mindprint.types import DEFAULT_TENANT
from mindprint.types.audit import AuditValue
from mindprint.types.keys import VersionRef
from mindprint_server.adapters.artifact_folders import FILES, WEIGHTS
from mindprint_server.adapters.artifact_owner import ArtifactOwner
from mindprint_server.adapters.artifacts import ArtifactStore
from mindprint_server.adapters.remote_artifacts import local_folder
from mindprint_server.exceptions import ArtifactUnavailable
from mindprint_server.observability.metrics import Metrics
from mindprint_server.settings import Settings
from mindprint_server.store import Store
from mindprint_server.store.audit import HOST, new_event
from mindprint_server.store.dump import ROWS_AT_ONCE, Row, table_names
from mindprint_server.store.migrations import head
from mindprint_server.store.signing_keys import DATABASE
from mindprint_server.tenancy import in_tenant

BACKUP_MANIFEST = "manifest.json"
VERSIONS, VERSION_NUMBERS, LIVE_VERSIONS, PUBLICATIONS = "versions", "version_numbers", "live_versions", "publications"
SIGNING_KEYS = "signing_keys"
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class BackupError(Exception):
    """A backup that cannot be made, or one that cannot be restored. Nothing was changed."""


@dataclass(frozen=True)
class StoredVersion:
    """A version that has files.

    Attributes:
        name: Such as `user/anna@7`.
        artifact: Under which its files are stored.
        engine_id: Its id in the engine, which is part of that digest.
        weights_sha256: SHA-256 of its weights, as the trainer sent it.
    """

    name: str
    artifact: str
    engine_id: int
    weights_sha256: str


class BackupManifest(BaseModel):
    """What a backup holds."""

    format: Literal[1] = 1
    mindprint: str
    """The release that made it."""
    revision: str
    """The newest migration of the database."""
    database: str
    created_at: datetime
    rows: dict[str, int]
    """Number of rows of each table."""
    sequences: dict[str, int]
    """Last number that each counting column gave out."""
    files: dict[str, Digest]
    """SHA-256 of each file, by its path in the backup."""


# --- files of versions ---


@asynccontextmanager
async def _artifacts(settings: Settings, owner: ArtifactOwner) -> AsyncIterator[ArtifactStore]:
    """Open the artifact store of a server, without the server."""
    with tempfile.TemporaryDirectory() as folder:
        if settings.artifact_url is not None and local_folder(settings.artifact_url) is None:
            # Copies of its own: those in the data folder belong to a server that may be running.
            settings = settings.model_copy(update={"data_dir": Path(folder)})
        artifacts = ArtifactStore(settings, Metrics(), owner=owner, is_loaded=lambda _: False)
        await artifacts.start()
        try:
            yield artifacts
        finally:
            await artifacts.stop()


async def copy_version_files(artifacts: ArtifactStore, version: StoredVersion, target: Path) -> None:
    """Copy the verified files of a version into a folder.

    Raises:
        ArtifactUnavailable: The files are missing or damaged, or were removed meanwhile.
    """
    async with artifacts.hold(version.artifact, version.engine_id) as source:
        await asyncio.to_thread(_copy_files, source, target)


async def put_version_files(artifacts: ArtifactStore, version: StoredVersion, source: Path) -> None:
    """Store the files of a version, unless they are there already.

    Raises:
        BackupError: The files are others than the version names, or they cannot be stored.
    """
    try:
        digest = await artifacts.add(version.engine_id, partial(_copy_files, source))
    except ArtifactUnavailable as error:
        raise BackupError(error.message) from error
    if digest != version.artifact:
        raise BackupError(f"the backup is damaged (the files of {version.name}): use another one")


def _copy_files(source: Path, target: Path) -> None:
    make_private_folder(target)
    for name in FILES:
        shutil.copyfile(source / name, target / name)


# --- backup ---


async def back_up(settings: Settings, folder: Path) -> BackupManifest:
    """Write a backup of a server's database and adapter files.

    Args:
        settings: Where both are.
        folder: The backup. It must not exist yet, or be empty.

    Raises:
        BackupError: The folder is in use, or files of a version are missing or damaged.
        StoreError: The database cannot be read, or the backup cannot be written to its audit log.
        OSError: The folder cannot be written.
    """
    part = folder.with_name(f"{folder.name}.part")
    _check_free(folder, part)
    store = await Store.open(settings.url, migrate=False)
    try:
        with private_umask():
            make_private_folder(part)
            owner = ArtifactOwner(store.signing_keys.database_id, store.versions.list_artifacts)
            async with _artifacts(settings, owner) as artifacts:
                manifest = await _fill(part, store, artifacts)
            await _record(store, "server.backup", manifest)
            _rename(part, folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    finally:
        await store.close()
    return manifest


async def _record(store: Store, action: str, manifest: BackupManifest) -> None:
    """Store an event in the audit log of the tenant whose admins run the server."""
    objects: dict[str, AuditValue] = {"rows": sum(manifest.rows.values()), "files": len(manifest.files)}
    with in_tenant(DEFAULT_TENANT):
        await store.audit.add(new_event(HOST, action, objects, status=200))


def _check_free(folder: Path, part: Path) -> None:
    taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if part.exists() or taken:
        raise BackupError(f"{folder if taken else part} is there already: name a new folder, or remove it")


def _rename(part: Path, folder: Path) -> None:
    if folder.exists():  # it is empty
        folder.rmdir()
    part.rename(folder)


async def _fill(folder: Path, store: Store, artifacts: ArtifactStore) -> BackupManifest:
    """Write tables, then files: files of the snapshot's versions stay, but for those that retention removes."""
    (folder / "tables").mkdir()

    async def take(table: str, rows: list[Row]) -> None:
        with _named_file_errors():
            await asyncio.to_thread(_append, _table(folder, table), rows)

    snapshot = await store.dump.read_all(take)
    missing = await _copy_all(folder, artifacts)
    if missing:
        await _forget(folder, missing, still=await store.versions.list_artifacts())
    manifest = BackupManifest(
        mindprint=mindprint.__version__,
        revision=snapshot.revision,
        database=store.database,
        created_at=datetime.now(UTC),
        rows=snapshot.rows,
        sequences=snapshot.sequences,
        files=await asyncio.to_thread(_digests, folder),
    )
    await asyncio.to_thread(_write_manifest, folder, manifest)
    return manifest


async def _copy_all(folder: Path, artifacts: ArtifactStore) -> dict[str, str]:
    """Copy the files of all versions of a backup that have some. Return those that are gone: names by artifact."""
    missing: dict[str, str] = {}
    for version in await asyncio.to_thread(_with_files, folder):
        target = _artifact(folder, version)
        try:
            await copy_version_files(artifacts, version, target)
        except ArtifactUnavailable:
            await asyncio.to_thread(shutil.rmtree, target, ignore_errors=True)
            missing[version.artifact] = version.name
            continue
        if await asyncio.to_thread(_digest, target / WEIGHTS) != version.weights_sha256:
            raise BackupError(
                f"the weights of {version.name} are damaged: restore them from an older backup, or roll back"
            )
    return missing


async def _forget(folder: Path, missing: Mapping[str, str], *, still: set[str]) -> None:
    """Note in a backup that versions have no files: retention removed them after the snapshot.

    Raises:
        BackupError: A version should have files, or answers in the snapshot.
    """
    pointers = list(_read(_table(folder, LIVE_VERSIONS)))
    answering = {
        (row["tenant"], row["adapter"], number) for row in pointers for number in (row["version"], row["canary"])
    }
    rows = list(_read(_table(folder, VERSIONS)))
    needed = {row["artifact"] for row in rows if (row["tenant"], row["adapter"], row["version"]) in answering}
    if lost := sorted(missing[artifact] for artifact in missing.keys() & (still | needed)):
        names = ", ".join(lost)
        raise BackupError(
            f"the files of {names} are missing or damaged: back up again; if it fails again, roll back first"
        )
    rows = [row | {"files": row["files"] and row["artifact"] not in missing} for row in rows]
    await asyncio.to_thread(_table(folder, VERSIONS).unlink)
    await asyncio.to_thread(_append, _table(folder, VERSIONS), rows)
    # A publication that ended after the snapshot: whoever restores it finds no files, and the traces wait again.
    rows = list(_read(_table(folder, PUBLICATIONS)))
    rows = [row | {"artifact": None if row["artifact"] in missing else row["artifact"]} for row in rows]
    await asyncio.to_thread(_table(folder, PUBLICATIONS).unlink)
    await asyncio.to_thread(_append, _table(folder, PUBLICATIONS), rows)


# --- restore ---


async def restore(settings: Settings, folder: Path) -> BackupManifest:
    """Fill an empty database and data folder from a backup, which is verified first. No server may run on them.

    Files are stored first, the rows in one transaction after them. What fails may be repeated.

    Args:
        settings: Where database and adapter files go.
        folder: The backup.

    Raises:
        BackupError: The backup is damaged or of another release, other files are in the way, or the artifact store
            belongs to another database.
        StoreError: The database cannot be opened, or is not empty.
        OSError: Something cannot be read or written.
    """
    manifest = await asyncio.to_thread(verify, folder)
    database_id = await asyncio.to_thread(_database_id, folder)

    async def known_id() -> str:
        return database_id

    make_private_folder(settings.data_dir)
    store = await Store.open(settings.url)
    try:
        if filled := [name for name, count in (await store.dump.count_rows()).items() if count]:
            raise BackupError(f"the database is not empty ({', '.join(filled)}): restore into a new one")
        with private_umask():
            # The new database names nothing yet: the store must be empty, or marked as that of the backup's one.
            async with _artifacts(settings, ArtifactOwner(known_id, store.versions.list_artifacts)) as artifacts:
                for version in await asyncio.to_thread(_with_files, folder):
                    await put_version_files(artifacts, version, _artifact(folder, version))

        async def rows_of(table: str) -> AsyncIterator[list[Row]]:
            left = _read(_table(folder, table))
            while rows := await asyncio.to_thread(_next_rows, left):
                yield rows

        await store.dump.write_all(rows_of, manifest.sequences)
        await store.signing_keys.ensure(DATABASE, bytes.fromhex(database_id))
        await _record(store, "server.restore", manifest)
    finally:
        await store.close()
    return manifest


def verify(folder: Path) -> BackupManifest:
    """Read the manifest of a backup, and check every file against it.

    Raises:
        BackupError: It is no backup, of another release, or damaged.
    """
    try:
        manifest = BackupManifest.model_validate_json((folder / BACKUP_MANIFEST).read_bytes())
    except FileNotFoundError:
        raise BackupError(f"{folder} is no complete backup: it has no {BACKUP_MANIFEST}") from None
    except ValidationError:
        raise BackupError(f"{folder / BACKUP_MANIFEST} is damaged, or of a newer release: use another backup") from None
    if manifest.revision != (newest := head()):
        raise BackupError(
            f"the backup has the tables of revision {manifest.revision}, this release has {newest}: restore it with "
            f"mindprint {manifest.mindprint}, then upgrade"
        )
    try:
        damaged = _differences(folder, manifest)
    except (ValueError, KeyError, TypeError) as error:
        raise BackupError(f"the backup is damaged ({type(error).__name__} in a table): use another one") from error
    if damaged:
        raise BackupError(f"the backup is damaged ({', '.join(damaged[:5])}): use another one")
    return manifest


def _differences(folder: Path, manifest: BackupManifest) -> list[str]:
    """Return what of a backup is not as its manifest says, or not as its own tables say."""
    found = _digests(folder)
    if wrong := {path for path in found.keys() | manifest.files.keys() if found.get(path) != manifest.files.get(path)}:
        return sorted(wrong)
    tables = {f"tables/{name}.jsonl": name for name in table_names()}
    if missing := tables.keys() - found.keys():
        return sorted(missing)
    expected = set(tables)
    for version in _with_files(folder):
        place = _artifact(Path(), version)
        expected |= {(place / name).as_posix() for name in FILES}
        if found.get((place / WEIGHTS).as_posix()) != version.weights_sha256:
            wrong.add((place / WEIGHTS).as_posix())
    counts = {path: sum(1 for _ in _read(folder / path)) for path in tables}
    wrong |= {path for path, name in tables.items() if counts[path] != manifest.rows.get(name)}
    return sorted(wrong | (expected ^ found.keys()))


# --- the folder of a backup ---


def _table(folder: Path, name: str) -> Path:
    return folder / "tables" / f"{name}.jsonl"


def _artifact(folder: Path, version: StoredVersion) -> Path:
    return folder / "artifacts" / version.artifact


def _database_id(folder: Path) -> str:
    """Return the id of a backup's database; a new one if no server has given it an id yet."""
    ids = [str(row["key"]) for row in _read(_table(folder, SIGNING_KEYS)) if row["name"] == DATABASE]
    return ids[0] if ids else secrets.token_hex(16)


def _append(file: Path, rows: Iterable[Row]) -> None:
    with file.open("a", encoding="ascii") as out:
        out.writelines(f"{json.dumps(row, allow_nan=False)}\n" for row in rows)


def _read(file: Path) -> Iterator[Row]:
    with file.open("rb") as lines:
        for line in lines:
            row: Any = json.loads(line)
            yield row


def _next_rows(rows: Iterator[Row]) -> list[Row]:
    with _named_file_errors():
        return list(islice(rows, ROWS_AT_ONCE))


@contextmanager
def _named_file_errors() -> Iterator[None]:
    """Turn an error of a file into a BackupError: inside a transaction the store would take it for one of its own."""
    try:
        yield
    except OSError as error:
        raise BackupError(f"{error.filename or 'the backup'}: {error.strerror or error}") from error


def _with_files(folder: Path) -> list[StoredVersion]:
    """List the versions of a backup that have files, also those that are being published.

    Raises:
        BackupError: The files of one are still in the folders of an older release.
    """
    numbers = _read(_table(folder, VERSION_NUMBERS))
    engine_ids = {(row["tenant"], row["adapter"], row["version"]): row["engine_id"] for row in numbers}
    found: list[StoredVersion] = []
    for row in _read(_table(folder, VERSIONS)):
        if not row["files"]:
            continue
        name = VersionRef.of(row["adapter"], row["version"])
        if row["artifact"] is None:
            raise BackupError(f"the files of {name} are those of an older release: start the server once, then back up")
        engine_id = engine_ids[row["tenant"], row["adapter"], row["version"]]
        found.append(StoredVersion(name, row["artifact"], engine_id, row["manifest"]["weights_sha256"]))
    for row in _read(_table(folder, PUBLICATIONS)):
        if row["artifact"] is not None:
            name, digest = VersionRef.of(row["adapter"], row["version"]), row["manifest"]["weights_sha256"]
            found.append(StoredVersion(name, row["artifact"], row["engine_id"], digest))
    return found


def _digests(folder: Path) -> dict[str, str]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path != folder / BACKUP_MANIFEST)
    return {path.relative_to(folder).as_posix(): _digest(path) for path in sorted(paths)}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_manifest(folder: Path, manifest: BackupManifest) -> None:
    (folder / BACKUP_MANIFEST).write_text(f"{manifest.model_dump_json(indent=2)}\n", "utf-8")
    for path in (*folder.rglob("*"), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
