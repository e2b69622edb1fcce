"""Backup and restore, from each kind of database into each: rows, files, and what is refused."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from databases import POSTGRES, new_database
from mindprint.types import BatchRequest, CreateApiKey
from mindprint_server import backup
from mindprint_server.adapters.artifact_owner import MARKER
from mindprint_server.backup import BackupError, back_up, restore, verify
from mindprint_server.engine.fake import FakeEngine
from mindprint_server.settings import Settings
from mindprint_server.store import Store, StoreError
from mindprint_server.store.dump import Row, Snapshot
from mindprint_server.wiring import Services, close_services, open_services
from samples import engagement, write_tensors
from uploads import leased, published, upload

DIALECTS = ["sqlite"] if POSTGRES == "off" else ["sqlite", "postgresql"]
NewPlace = Callable[[str], Any]


@pytest.fixture
def base_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    shapes: dict[str, tuple[int, ...]] = {"model.layers.0.self_attn.q_proj.weight": (8, 8)}
    write_tensors(folder / "model.safetensors", shapes)
    return folder


@pytest.fixture
async def place(tmp_path: Path, base_folder: Path) -> AsyncIterator[NewPlace]:
    """Makes the settings of a server with a database and a data folder of its own."""
    numbers = itertools.count()
    async with AsyncExitStack() as stack:

        async def make(dialect: str) -> Settings:
            data_dir = tmp_path / f"server{next(numbers)}"
            data_dir.mkdir()
            url = await stack.enter_async_context(new_database(dialect, data_dir))
            return Settings(
                engine="fake",
                model=str(base_folder),
                data_dir=data_dir,
                database_url=SecretStr(url),
                prefilter_by_prior=False,
                min_answer_frequency=0,
                gate=False,
            )

        yield make


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Services]:
    services = await open_services(settings, engine=FakeEngine(model_path=Path(settings.model)))
    try:
        yield services
    finally:
        await close_services(services)


async def fill(services: Services, folder: Path) -> None:
    """Something in most tables: users, traces, two versions, a cohort, a batch, a profile, a key."""
    await published(services, folder)
    await published(services, folder)
    await services.store.cohorts.put("tea", "those who like \N{HOT BEVERAGE} \u2028 and 'quotes'")
    await services.store.cohorts.add_members("tea", ["ann"])
    await services.profiles.renew("ann")
    batch, _ = await services.batches.submit(BatchRequest(idempotency_key="b"))
    async for _ in services.batches.watch(batch.id):
        pass  # to its end
    await services.access.create(CreateApiKey(name="app", scopes=["read"]))
    await services.store.versions.allocate("user/ann")  # a number without a version


async def everything(url: str) -> tuple[dict[str, list[Row]], Snapshot]:
    rows: dict[str, list[Row]] = {}

    async def take(table: str, part: list[Row]) -> None:
        rows.setdefault(table, []).extend(part)

    store = await Store.open(url, migrate=False)
    try:
        return rows, await store.dump.read_all(take)
    finally:
        await store.close()


def unlogged(found: tuple[dict[str, list[Row]], Snapshot]) -> tuple[dict[str, list[Row]], dict[str, int]]:
    """Rows without the audit log, which says of each database what was done to it; and the last numbers given out."""
    rows, snapshot = found
    return {table: part for table, part in rows.items() if table != "audit_events"}, dict(snapshot.sequences)


def files_of(settings: Settings) -> dict[str, bytes]:
    root = settings.data_dir / "artifacts"
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("target", DIALECTS)
@pytest.mark.parametrize("source", DIALECTS)
async def test_a_restored_server_is_the_one_that_was_backed_up(
    source: str, target: str, place: NewPlace, tmp_path: Path
) -> None:
    old, new = await place(source), await place(target)
    async with running(old) as services:
        await fill(services, tmp_path)
        rows, snapshot = await everything(old.url)
        manifest = await back_up(old, tmp_path / "backup")  # while the server runs
    assert manifest.rows == snapshot.rows
    assert {"users", "traces", "versions", "cohorts", "batches", "profiles", "api_keys"} <= {
        table for table, count in manifest.rows.items() if count
    }
    await restore(new, tmp_path / "backup")
    restored = await everything(new.url)
    assert [row["action"] for row in restored[0]["audit_events"]] == ["server.restore"]
    assert unlogged(restored) == unlogged((rows, snapshot))
    assert files_of(new) == files_of(old)
    assert len(files_of(new)) == 7, "of two versions, and the marker of the store"
    async with running(new) as services:
        assert (await services.store.adapters.get("user/ann")).live == 2
        allocated = await services.store.versions.allocate("user/bob")
        assert allocated.engine_id == snapshot.sequences["version_numbers"] + 1
        assert (await upload(services, await leased(services), tmp_path, number=4)).state == "live"


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_what_is_written_during_a_backup_is_not_in_it(
    dialect: str, place: NewPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, append = await place(dialect), backup._append

    async def add_user() -> None:
        store = await Store.open(settings.url)
        await store.engagements.add("late", [engagement(1)])
        await store.close()

    def append_and_write(file: Path, rows: list[Row]) -> None:
        append(file, rows)
        if file.name == "cohorts.jsonl" and not rows:
            asyncio.run(add_user())

    await (await Store.open(settings.url)).close()
    monkeypatch.setattr(backup, "_append", append_and_write)
    manifest = await back_up(settings, tmp_path / "backup")
    assert (manifest.rows["users"], manifest.rows["engagements"]) == (0, 0)
    rows, _ = await everything(settings.url)
    assert [row["id"] for row in rows["users"]] == ["late"]


@pytest.fixture
async def made(place: NewPlace, tmp_path: Path) -> tuple[Settings, Path]:
    """A server on SQLite that is stopped, and its backup."""
    settings = await place("sqlite")
    async with running(settings) as services:
        await fill(services, tmp_path)
    await back_up(settings, tmp_path / "backup")
    return settings, tmp_path / "backup"


def first_artifact(folder: Path) -> Path:
    return min((folder / "artifacts").iterdir())


def files_folder(made: tuple[Settings, Path], number: int) -> Path:
    """The server's folder of a version's files."""
    rows = [json.loads(line) for line in (made[1] / "tables/versions.jsonl").read_text().splitlines()]
    (digest,) = (row["artifact"] for row in rows if row["version"] == number)
    return next((made[0].data_dir / "artifacts").rglob(digest))


def change_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: change_byte(first_artifact(folder) / "adapter_model.safetensors"),
        lambda folder: change_byte(first_artifact(folder) / "adapter_config.json"),
        lambda folder: change_byte(folder / "tables/traces.jsonl"),
        lambda folder: (folder / "tables/users.jsonl").write_text(""),
        lambda folder: (folder / "tables/users.jsonl").unlink(),
        lambda folder: shutil.rmtree(first_artifact(folder)),
        lambda folder: (folder / "artifacts/more").write_text("x"),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "manifest.json").write_text("{}"),
    ],
)
async def test_a_damaged_backup_is_refused_and_nothing_is_restored(
    damage: Callable[[Path], None], made: tuple[Settings, Path], place: NewPlace
) -> None:
    damage(made[1])
    target = await place("sqlite")
    with pytest.raises(BackupError, match=r"damaged|no complete backup"):
        await restore(target, made[1])
    assert list(target.data_dir.iterdir()) == []


async def test_backup_is_in_the_audit_log_of_the_default_tenant(made: tuple[Settings, Path]) -> None:
    store = await Store.open(made[0].url)
    (event,) = await store.audit.find()
    await store.close()
    assert (event.tenant, event.actor, event.action, event.status) == ("default", "host", "server.backup", 200)
    assert event.objects == {"rows": sum(verify(made[1]).rows.values()), "files": len(verify(made[1]).files)}


def no_part_of(folder: Path) -> bool:
    return not list(folder.parent.glob(f"{folder.name}*"))


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


async def test_a_backup_of_another_revision_is_refused(made: tuple[Settings, Path], place: NewPlace) -> None:
    rewrite(made[1], revision="0001", mindprint="0.0.9")
    with pytest.raises(BackupError, match=r"restore it with mindprint 0\.0\.9, then upgrade"):
        await restore(await place("sqlite"), made[1])


async def test_rows_that_the_manifest_does_not_count_are_refused(made: tuple[Settings, Path]) -> None:
    folder = made[1]
    manifest = verify(folder)
    rewrite(folder, rows=manifest.rows | {"users": manifest.rows["users"] + 1})
    with pytest.raises(BackupError, match=r"damaged \(tables/users.jsonl\)"):
        verify(folder)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_database_that_is_not_empty_is_refused(
    dialect: str, made: tuple[Settings, Path], place: NewPlace
) -> None:
    target = await place(dialect)
    store = await Store.open(target.url)
    await store.cohorts.put("tea", "")
    await store.close()
    before = await everything(target.url)
    with pytest.raises(BackupError, match=r"not empty \(cohorts\)"):
        await restore(target, made[1])
    assert await everything(target.url) == before
    assert not list((target.data_dir / "artifacts").glob("*/*"))


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_restore_that_fails_leaves_no_rows_and_may_be_repeated(
    dialect: str, made: tuple[Settings, Path], place: NewPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = await place(dialect)
    read = backup._read

    def failing(file: Path) -> Iterator[Row]:
        if file.name == "traces.jsonl" and broken:
            raise OSError("the disk is gone")
        yield from read(file)

    verified, broken = verify(made[1]), True
    monkeypatch.setattr(backup, "_read", failing)
    monkeypatch.setattr(backup, "verify", lambda folder: verified)
    with pytest.raises(BackupError, match="the disk is gone"):
        await restore(target, made[1])
    _, snapshot = await everything(target.url)
    assert {table for table, count in snapshot.rows.items() if count} == {"cohorts", "tenants"}
    broken = False
    await restore(target, made[1])
    assert unlogged(await everything(target.url)) == unlogged(await everything(made[0].url))
    assert files_of(target) == files_of(made[0])


async def test_files_that_are_there_already_are_kept(made: tuple[Settings, Path], place: NewPlace) -> None:
    target = await place("sqlite")
    shutil.copytree(made[0].data_dir / "artifacts", target.data_dir / "artifacts")
    await restore(target, made[1])
    assert files_of(target) == files_of(made[0])


# --- what cannot be backed up ---


async def test_damaged_weights_are_not_backed_up(made: tuple[Settings, Path], tmp_path: Path) -> None:
    change_byte(files_folder(made, 1) / "adapter_model.safetensors")
    with pytest.raises(BackupError, match="the files of user/ann@1 are missing"):
        await back_up(made[0], tmp_path / "again")
    assert no_part_of(tmp_path / "again")


async def test_missing_files_are_not_backed_up(made: tuple[Settings, Path], tmp_path: Path) -> None:
    shutil.rmtree(files_folder(made, 1))
    with pytest.raises(BackupError, match="the files of user/ann@1 are missing"):
        await back_up(made[0], tmp_path / "again")


async def test_files_that_retention_removes_meanwhile_are_left_out(
    made: tuple[Settings, Path], place: NewPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, copy = made[0], backup._copy_all
    store = await Store.open(settings.url)
    assert await store.retention.mark_files_removed("user/ann", 1)

    def pruned_first(folder: Path, storage: Any) -> Any:
        # The snapshot is of the moment before: its row still says that there are files.
        file = folder / "tables/versions.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("".join(f"{json.dumps(row | {'files': True})}\n" for row in rows))
        shutil.rmtree(files_folder(made, 1))
        return copy(folder, storage)

    monkeypatch.setattr(backup, "_copy_all", pruned_first)
    await back_up(settings, tmp_path / "again")
    await store.close()
    target = await place("sqlite")
    await restore(target, tmp_path / "again")
    rows, _ = await everything(target.url)
    assert {f"{row['adapter']}@{row['version']}": row["files"] for row in rows["versions"]} == {
        "user/ann@1": False,
        "user/ann@2": True,
    }


async def test_a_folder_in_use_is_not_overwritten(made: tuple[Settings, Path], tmp_path: Path) -> None:
    before = verify(made[1])
    with pytest.raises(BackupError, match="is there already"):
        await back_up(made[0], made[1])
    assert verify(made[1]) == before
    (tmp_path / "empty").mkdir()
    await back_up(made[0], tmp_path / "empty")
    assert verify(tmp_path / "empty").rows == before.rows | {"audit_events": 1}


async def test_a_database_that_is_not_there_is_not_made(place: NewPlace, tmp_path: Path) -> None:
    settings = await place("sqlite")
    with pytest.raises(StoreError, match="there is no database"):
        await back_up(settings, tmp_path / "backup")
    assert list(settings.data_dir.iterdir()) == []
    assert no_part_of(tmp_path / "backup")


@pytest.mark.skipif(POSTGRES == "off", reason="needs PostgreSQL")
async def test_a_database_without_tables_is_refused(place: NewPlace, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="the database has no tables"):
        await back_up(await place("postgresql"), tmp_path / "backup")


async def test_a_backup_is_its_owner_s_only(made: tuple[Settings, Path]) -> None:
    modes = {path.stat().st_mode & 0o777 for path in (made[1], *made[1].rglob("*"))}
    assert modes == {0o700, 0o600}


async def test_nothing_is_restored_into_the_artifact_store_of_another_database(place: NewPlace, tmp_path: Path) -> None:
    old, new = await place("sqlite"), await place("sqlite")
    async with running(old) as services:
        await fill(services, tmp_path)
    await back_up(old, tmp_path / "backup")
    root = new.data_dir / "artifacts"
    root.mkdir()
    (root / MARKER).write_text("1" * 32)
    with pytest.raises(BackupError, match="it belongs to another database"):
        await restore(new, tmp_path / "backup")
    assert [path.name for path in root.iterdir()] == [MARKER]
    (root / MARKER).unlink()
    await restore(new, tmp_path / "backup")
    assert (root / MARKER).read_text() == (old.data_dir / "artifacts" / MARKER).read_text()
