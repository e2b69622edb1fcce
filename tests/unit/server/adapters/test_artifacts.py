"""Artifacts as one server uses them: fetched once, verified, evicted, and never waited for without a bound."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest

from mindprint_server.adapters.artifact_owner import MARKER, ArtifactOwner
from mindprint_server.adapters.artifacts import ArtifactStore
from mindprint_server.context import ServerContext
from mindprint_server.exceptions import ArtifactUnavailable
from mindprint_server.observability.metrics import Metrics
from mindprint_server.settings import Settings

Open = Callable[..., Awaitable[ArtifactStore]]
NOTHING: set[str] = set()


@pytest.fixture
def loaded() -> set[Path]:
    """Folders that the engine holds."""
    return set()


@pytest.fixture
async def open_store(tmp_path: Path, loaded: set[Path]) -> AsyncIterator[Open]:
    url = f"memory://{uuid4().hex}"
    async with AsyncExitStack() as stack:

        async def open(
            name: str = "server", *, database: str = "0" * 32, named: set[str] = NOTHING, **changes: Any
        ) -> ArtifactStore:
            async def database_id() -> str:
                return database

            async def list_named() -> set[str]:
                return named

            settings = Settings(data_dir=tmp_path / name, artifact_url=url).model_copy(update=changes)
            ctx = ServerContext(settings, cast(Any, None), cast(Any, None), Metrics())
            owner = ArtifactOwner(database_id, list_named)
            store = ArtifactStore(ctx.settings, ctx.metrics, owner=owner, is_loaded=loaded.__contains__)
            await store.start()
            stack.push_async_callback(store.stop)
            return store

        yield open


async def write(store: ArtifactStore, tmp_path: Path, engine_id: int = 1, size: int = 100) -> str:
    upload = tmp_path / f"upload{engine_id}"
    await asyncio.to_thread(upload.write_bytes, bytes(size))
    return await store.write(engine_id, weights=upload, config=b"{}", manifest="{}")


async def held(store: ArtifactStore, digest: str, engine_id: int = 1) -> Path:
    async with store.hold(digest, engine_id) as folder:
        return folder


def counted(store: ArtifactStore, outcome: str) -> float:
    registry = store._metrics.registry
    return registry.get_sample_value("mindprint_artifact_fetches_total", {"outcome": outcome}) or 0.0


def copies(store: ArtifactStore) -> set[str]:
    return {path.name for path in store.folders.root.iterdir()}


async def evicted(store: ArtifactStore) -> None:
    while store._evicting:
        await asyncio.gather(*store._evicting.values())


async def test_files_are_fetched_once_for_many_requests(open_store: Open, tmp_path: Path) -> None:
    digest = await write(await open_store("first"), tmp_path)
    second = await open_store("second")
    remote: Any = second._remote
    fetches, usual = [], remote.get

    def count(*args: Any) -> None:
        fetches.append(threading.current_thread())
        usual(*args)

    remote.get = count
    folders = await asyncio.gather(*(held(second, digest) for _ in range(20)))
    assert set(folders) == {second.folders.path(digest)}
    assert len(fetches) == 1
    assert fetches[0] is not threading.main_thread()
    assert counted(second, "fetched") == 1


async def test_missing_artifact_is_looked_for_again_only_after_a_while(open_store: Open, tmp_path: Path) -> None:
    store = await open_store(artifact_retry_s=1000)
    remote: Any = store._remote
    asked, usual = [], remote.get

    def count(*args: Any) -> None:
        asked.append(args)
        usual(*args)

    remote.get = count
    for _ in range(3):
        with pytest.raises(ArtifactUnavailable, match="not in the artifact store"):
            await held(store, "0" * 64)
    assert len(asked) == 1
    store._failures.clear()
    with pytest.raises(ArtifactUnavailable):
        await held(store, "0" * 64)
    assert len(asked) == 2


async def test_request_waits_for_a_bounded_time_and_the_fetch_goes_on(open_store: Open, tmp_path: Path) -> None:
    digest = await write(await open_store("first"), tmp_path)
    second = await open_store("second", artifact_wait_s=0.01)
    remote: Any = second._remote
    go, usual = threading.Event(), remote.get

    def wait(*args: Any) -> None:
        go.wait(20)
        usual(*args)

    remote.get = wait
    with pytest.raises(ArtifactUnavailable, match="still being fetched"):
        await held(second, digest)
    go.set()
    await asyncio.gather(*second._preparing.values())
    assert await held(second, digest) == second.folders.path(digest)


async def test_call_that_hangs_is_given_up(open_store: Open, tmp_path: Path) -> None:
    digest = await write(await open_store("first"), tmp_path)
    second = await open_store("second", artifact_timeout_s=0.5)
    remote: Any = second._remote
    go = threading.Event()
    remote.get = lambda *args: go.wait(20)
    try:
        with pytest.raises(ArtifactUnavailable, match=r"no answer within 0.5 s"):
            await held(second, digest)
    finally:
        go.set()


async def test_artifact_that_was_changed_in_the_store_is_not_used(open_store: Open, tmp_path: Path) -> None:
    digest = await write(await open_store("first"), tmp_path)
    second = await open_store("second")
    remote: Any = second._remote
    remote._files.pipe_file(f"{remote._root}/{digest}/adapter_config.json", b"[]")
    with pytest.raises(ArtifactUnavailable, match="digest"):
        await held(second, digest)
    assert copies(second) == set()
    assert counted(second, "damaged") == 1


async def test_copy_that_was_damaged_is_fetched_again(open_store: Open, tmp_path: Path) -> None:
    first = await open_store("first")
    digest = await write(first, tmp_path)
    weights = first.folders.path(digest) / "adapter_model.safetensors"
    weights.write_bytes(b"damaged")
    with pytest.raises(ArtifactUnavailable):
        await first.check(digest, 1)
    await held(first, digest)
    assert weights.read_bytes() == bytes(100)
    weights.write_bytes(b"damaged")
    restarted = await open_store("first")
    await held(restarted, digest)
    assert weights.read_bytes() == bytes(100)


async def test_copies_above_the_bound_leave_the_least_recently_used_first(
    open_store: Open, tmp_path: Path, loaded: set[Path]
) -> None:
    store = await open_store(artifact_cache_bytes=350)
    first, second, third = [await write(store, tmp_path, number) for number in (1, 2, 3)]
    await held(store, first, 1)
    fourth = await write(store, tmp_path, 4)
    await evicted(store)
    assert copies(store) == {first, third, fourth}
    loaded.add(store.folders.path(first))
    async with store.hold(third, 3):
        fifth = await write(store, tmp_path, 5)
        await evicted(store)
        assert copies(store) == {first, third, fifth}
    assert await held(store, second, 2) == store.folders.path(second)
    assert counted(store, "fetched") == 1


async def test_copies_of_an_earlier_start_count_too(open_store: Open, tmp_path: Path) -> None:
    store = await open_store()
    written = {await write(store, tmp_path, number) for number in (1, 2, 3)}
    await store.stop()
    restarted = await open_store(artifact_cache_bytes=250, named=written)
    await evicted(restarted)
    assert len(copies(restarted)) == 2


async def test_copies_that_were_erased_meanwhile_go_at_the_start(open_store: Open, tmp_path: Path) -> None:
    store = await open_store()
    kept, erased = [await write(store, tmp_path, number) for number in (1, 2)]
    await store.stop()
    assert copies(await open_store(named={kept})) == {kept}
    assert erased != kept
    assert copies(await open_store()) == set(), "the last one of a database goes too"


async def test_folder_is_used_in_place(open_store: Open, tmp_path: Path) -> None:
    store = await open_store(artifact_url=f"file://{tmp_path}/shared", artifact_cache_bytes=0)
    digest = await write(store, tmp_path)
    assert await held(store, digest) == tmp_path / "shared" / digest
    assert not (tmp_path / "server").exists()


async def test_store_that_fails_refuses_a_new_artifact(open_store: Open, tmp_path: Path) -> None:
    store = await open_store()
    remote: Any = store._remote

    def fail(*args: Any) -> None:
        raise RuntimeError("secret words of a library")

    remote.put = fail
    with pytest.raises(ArtifactUnavailable) as error:
        await write(store, tmp_path)
    assert "RuntimeError" in error.value.message
    assert "secret" not in error.value.message


async def test_store_without_its_bucket_says_so(open_store: Open) -> None:
    """As s3fs answers: neither the object nor the bucket is there."""
    store = await open_store()
    remote: Any = store._remote

    def refuse(*_: object, **__: object) -> None:
        raise FileNotFoundError("The specified bucket does not exist")

    remote._files = SimpleNamespace(cat_file=refuse, pipe_file=refuse, ls=refuse)
    with pytest.raises(ArtifactUnavailable, match="its bucket does not exist: create it, or correct artifact_url"):
        await store.ping()


async def test_nothing_of_another_database_is_listed_for_removal(open_store: Open, tmp_path: Path) -> None:
    first, second = await open_store("first"), await open_store("second", database="1" * 32)
    digest = await write(first, tmp_path)
    assert await first.list_old(0, named=()) == {digest}
    with pytest.raises(ArtifactUnavailable, match="it belongs to another database"):
        await second.list_old(0, named=())


async def test_nothing_is_written_into_the_store_of_another_database(open_store: Open, tmp_path: Path) -> None:
    """An upload that came before the first probe lay there, and the owner removed it a day later."""
    digest = await write(await open_store("first"), tmp_path)
    second = await open_store("second", database="1" * 32)
    with pytest.raises(ArtifactUnavailable, match="it belongs to another database"):
        await write(second, tmp_path, engine_id=2)
    with pytest.raises(ArtifactUnavailable, match="it belongs to another database"):
        await second.add(2, lambda folder: None)
    assert set(second._remote.list_ages(())) == {digest}  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["folder", "memory"])
async def test_unmarked_store_is_taken_only_by_a_database_that_names_something_in_it(
    kind: str, open_store: Open, tmp_path: Path
) -> None:
    """Whoever pinged first got it, and removed production's artifacts as orphans."""
    url = {"artifact_url": str(tmp_path / "shared")} if kind == "folder" else {}
    first = await open_store("first", **url)
    digest = await write(first, tmp_path)
    if kind == "folder":
        (tmp_path / "shared" / MARKER).unlink()
    else:
        first._remote._files.rm(first._remote._marker)  # type: ignore[union-attr]
    for named in (set(), {"f" * 64}):
        staging = await open_store("staging", database="1" * 32, named=named, **url)
        with pytest.raises(ArtifactUnavailable, match=f"none of this database: .* write {'1' * 32} into its file"):
            await staging.ping()
    production = await open_store("production", named={digest, "e" * 64}, **url)
    await production.ping()
    with pytest.raises(ArtifactUnavailable, match="it belongs to another database"):
        await (await open_store("late", database="1" * 32, named={digest}, **url)).ping()


async def test_empty_folder_of_a_database_with_artifacts_is_a_missing_mount(open_store: Open, tmp_path: Path) -> None:
    """It was marked, and new uploads went to the disk below the mount point."""
    mount = tmp_path / "mount"
    store = await open_store(artifact_url=str(mount), named={"e" * 64})
    with pytest.raises(ArtifactUnavailable, match=r"the database names artifacts: mount the folder"):
        await store.ping()
    with pytest.raises(ArtifactUnavailable):
        await write(store, tmp_path)
    assert list(mount.iterdir()) == []
    await (await open_store("new", artifact_url=str(mount))).ping()
    await store.ping()


async def test_database_is_asked_for_its_artifacts_only_while_there_is_no_marker(open_store: Open) -> None:
    store = await open_store()
    await store.ping()

    async def never() -> set[str]:
        raise AssertionError

    store._owner = dataclasses.replace(store._owner, list_named=never)
    await store.ping()


async def test_old_artifacts_are_listed_but_not_those_that_are_named_or_used(open_store: Open, tmp_path: Path) -> None:
    store = await open_store()
    first, second, third = [await write(store, tmp_path, number) for number in (1, 2, 3)]
    assert await store.list_old(1000, named=()) == set()
    async with store.hold(second, 2):
        assert await store.list_old(0, named={third}) == {first}
    await store.remove(first)
    assert await store.list_old(0, named=()) == {second, third}


async def test_artifact_that_is_removed_while_it_is_fetched_leaves_no_copy(open_store: Open, tmp_path: Path) -> None:
    digest = await write(await open_store("first"), tmp_path)
    second = await open_store("second")
    remote: Any = second._remote
    began, gone, get, remove = threading.Event(), threading.Event(), remote.get, remote.remove

    def get_slowly(*args: Any) -> None:
        get(*args)
        began.set()
        gone.wait(20)

    def remove_and_say(digest: str) -> None:
        remove(digest)
        gone.set()

    remote.get, remote.remove = get_slowly, remove_and_say
    fetching = asyncio.create_task(held(second, digest))
    await asyncio.to_thread(began.wait, 20)
    removing = asyncio.create_task(second.remove(digest))
    await asyncio.gather(fetching, removing)
    assert copies(second) == set()
    with pytest.raises(ArtifactUnavailable):
        await held(second, digest)


async def test_copy_that_is_being_stored_is_not_evicted_for_another(open_store: Open, tmp_path: Path) -> None:
    store = await open_store(artifact_cache_bytes=150)
    remote: Any = store._remote
    began, go, usual = threading.Event(), threading.Event(), remote.put

    def wait(digest: str, folder: Path) -> None:
        began.set()
        go.wait(20)
        usual(digest, folder)

    remote.put = wait
    first = asyncio.create_task(write(store, tmp_path, 1))
    await asyncio.to_thread(began.wait, 20)
    remote.put = usual
    second = await write(store, tmp_path, 2)
    await evicted(store)
    go.set()
    assert await held(store, await first, 1)
    assert await held(store, second, 2)


async def test_call_that_is_cancelled_as_it_ends_is_cancelled(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop of the server that loses its cancellation waits an hour for its next turn, and the stop with it."""
    store = await open_store()
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    monkeypatch.setattr(loop, "run_in_executor", lambda *_: ended)
    call: asyncio.Task[list[str]] = asyncio.create_task(store._run("copies", list))
    await asyncio.sleep(0)
    ended.set_result(None)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
