"""Erasures on a whole server with the fake engine: files, versions, jobs and other servers."""

from __future__ import annotations

import asyncio
import io
import json
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lives import Open, answering, folders
from mindprint.receipts import find_key, keep_key, key_id, read_key
from mindprint.types import BatchRequest, Engagement
from mindprint_server.adapters.artifact_folders import WEIGHTS
from mindprint_server.adapters.artifact_owner import MARKER
from mindprint_server.context import ServerContext
from mindprint_server.exceptions import ArtifactUnavailable, Conflict
from mindprint_server.personal_data.erasure import ErasureService
from mindprint_server.store import (
    ErasureTarget,
    PublicationRecord,
    RecordNotFound,
    StoreBusy,
    UserBeingErased,
    VersionRecord,
)
from mindprint_server.store.erasures import SealedErasure
from mindprint_server.tenancy import cache_salt, current_tenant, erasure_epoch, in_tenant
from mindprint_server.wiring import Services
from planted import ANN, CANARY, erased, files_with, plant, publication_of
from samples import START, engagement
from uploads import leased, published, upload


async def test_files_and_engine_copies_go_and_the_retrained_version_is_clean(serve: Open, tmp_path: Path) -> None:
    services = await serve()
    await services.store.engagements.add("bob", [engagement(1)])
    clean = await published(services, tmp_path, "cohort/everyone", user="bob")
    tainted = await published(services, tmp_path, "cohort/everyone", user="ann")
    own = await published(services, tmp_path)
    await services.adapters.pin("user/ann", own.version, True)
    assert await answering(services, "user/ann") == "user/ann@1"
    assert await answering(services, "user/bob") == f"cohort/everyone@{tainted.version}"
    done = await erased(services)
    assert done.receipt is not None
    assert done.receipt.removed["versions"] == ["user/ann@1"]
    assert done.receipt.retraining == ["cohort/everyone"]
    assert await folders(services) == []
    assert await folders(services, "cohort/everyone") == [clean.version]
    assert await answering(services, "user/ann") == f"cohort/everyone@{clean.version}"
    assert services.adapters.residency.loaded() == [f"cohort/everyone@{clean.version}"]
    lease = await leased(services, "cohort/everyone", user="bob")
    assert lease.start is not None
    assert lease.start.version == clean.version
    retrained = await upload(services, lease, tmp_path, mark=1, number=3)
    assert (retrained.version, retrained.state) == (3, "live")
    again = await upload(services, await leased(services), tmp_path, number=2)
    assert again.version == 2, "the number of the erased version is never used again"


async def test_an_upload_under_a_revoked_lease_is_refused_and_leaves_no_files(serve: Open, tmp_path: Path) -> None:
    services = await serve()
    lease = await leased(services)
    await erased(services)
    with pytest.raises(Exception, match="is revoked by erasure"):
        await upload(services, lease, tmp_path)
    assert await folders(services) == []


async def test_files_of_an_upload_whose_server_was_killed_go_with_the_erasure(
    serve: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They stayed for a day, although the receipt said that all of the user was gone."""
    services = await serve()
    lease = await leased(services)

    async def killed(lease_id: str, version: VersionRecord) -> PublicationRecord:
        raise StoreBusy("the connection was lost")

    with monkeypatch.context() as dying:
        dying.setattr(services.store.publication_jobs, "add", killed)
        with pytest.raises(StoreBusy):
            await upload(services, lease, tmp_path)
    half = services.settings.data_dir / "artifacts" / ".new-killed.part"
    half.mkdir()
    (half / "manifest.json").write_text(json.dumps({"adapter": lease.adapter, "trace_ids": lease.trace_ids}))
    artifacts = services.settings.data_dir / "artifacts"
    of_half, of_upload = sorted(files_with(artifacts, lease.trace_ids[0]))
    assert of_half == ".new-killed.part/manifest.json"
    assert (artifacts / of_upload).with_name(WEIGHTS).exists()
    await erased(services)
    assert [path.name for path in artifacts.iterdir()] == [MARKER]


async def test_receipt_waits_until_the_files_are_removed(
    serve: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = await serve()
    await published(services, tmp_path)

    async def away(named: Any) -> Any:
        raise ArtifactUnavailable("artifacts cannot be used", "away")

    erasure = await services.erasures.request(ANN)
    with monkeypatch.context() as broken:
        broken.setattr(services.adapters._storage._artifacts, "list_manifests", away)
        with pytest.raises(ArtifactUnavailable):
            await services.erasures.run_open()
        assert (await services.store.erasures.get(erasure.id)).state == "open"
    await services.erasures.run_open()
    assert (await services.store.erasures.get(erasure.id)).state == "done"


async def test_upload_that_is_being_checked_ends_with_the_erasure_and_its_files_go(serve: Open, tmp_path: Path) -> None:
    services = await serve()
    gate: Any = services.publications._publisher._gate
    gate.held.clear()
    lease = await leased(services)
    uploading = asyncio.create_task(upload(services, lease, tmp_path))
    while not gate.seen:  # noqa: ASYNC110 (it has no event)
        await asyncio.sleep(0.005)
    job = await services.store.publication_jobs.find_of_lease(lease.id)
    assert job is not None
    done = await erased(services)
    assert done.receipt is not None
    assert done.receipt.removed["artifacts"] == [job.artifact]
    assert await folders(services) == []
    ended = await services.store.publication_jobs.get(job.id)
    assert (ended.state, ended.code, ended.manifest) == ("failed", "lease_revoked", None)
    gate.held.set()
    with pytest.raises(Conflict, match="removed data that the version may depend on"):
        await uploading
    assert await services.store.adapters.list_page() == []


async def test_caches_and_the_salt_change_here_and_on_other_servers(serve: Open) -> None:
    services = await serve()
    await plant(services)
    salt, epoch = cache_salt(), erasure_epoch()
    assert services.batches._processor._contexts.neighbors._vectors
    await erased(services)
    assert erasure_epoch() == epoch + 1
    assert cache_salt() != salt
    assert cache_salt("a") != cache_salt()
    assert not services.batches._processor._contexts.neighbors._vectors
    # Another server sees the epoch grow.
    salt, dropped = cache_salt(), []
    services.erasures._forget = [lambda: dropped.append(erasure_epoch())]
    services.erasures._note_epoch("default", epoch)
    await services.erasures.refresh()
    await services.erasures.refresh()
    assert dropped == [epoch], "once, before the new epoch counts"
    assert cache_salt() == salt


async def test_a_server_forgets_also_while_the_artifact_store_is_out_of_reach(
    serve: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = await serve()
    epochs = await services.store.tenants.list_epochs()
    grown = {"default": epochs["default"] + 1, "other": 1}
    forgot: list[str] = []
    services.erasures._forget = [lambda: forgot.append(current_tenant())]

    async def list_epochs() -> dict[str, int]:
        return grown

    async def list_sealed(after: int) -> list[SealedErasure]:
        return [SealedErasure(epoch=after + 1, artifacts=["a"] if current_tenant() == "default" else [])]

    async def out_of_reach(digest: str) -> None:
        raise ArtifactUnavailable("artifact a cannot be used", "no answer")

    monkeypatch.setattr(services.store.tenants, "list_epochs", list_epochs)
    monkeypatch.setattr(services.store.erasures, "list_sealed", list_sealed)
    monkeypatch.setattr(services.erasures._storage, "remove_artifact", out_of_reach)
    with pytest.raises(ArtifactUnavailable):
        await services.erasures.refresh()
    assert forgot == ["default", "other"]
    assert erasure_epoch() == grown["default"]
    with in_tenant("other"):
        assert erasure_epoch() == 1
    with pytest.raises(ArtifactUnavailable):
        await services.erasures.refresh()
    assert forgot == ["default", "other", "default"], "other is done, the files of default are tried again"


async def test_a_job_that_was_killed_anywhere_is_done_by_the_next_server(
    serve: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = await serve()
    await plant(services)
    erasure = await services.store.erasures.request(ANN)
    for step in ("collect", "delete", "seal", "purge", "finish"):
        original = getattr(services.store.erasures, step)

        async def die(*args: Any, original: Any = original, **kwargs: Any) -> None:
            await original(*args, **kwargs)
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(services.store.erasures, step, die)
            with pytest.raises(KeyboardInterrupt):
                await services.erasures.run_open()
    assert (await services.store.erasures.get(erasure.id)).state == "done"
    await services.erasures.run_open()
    assert files_with(services.settings.data_dir, CANARY) == []
    with pytest.raises(Exception, match="no user 'ann'"):
        await services.store.users.get("ann")


async def test_a_profile_that_was_being_written_is_not_stored(serve: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    services = await serve()
    await services.store.engagements.add("ann", [engagement(n) for n in range(3)])
    began, go = asyncio.Event(), asyncio.Event()
    generate = services.engine.generate

    async def slow(*args: Any, **kwargs: Any) -> Any:
        began.set()
        await go.wait()
        return await generate(*args, **kwargs)

    monkeypatch.setattr(services.engine, "generate", slow)
    writing = asyncio.create_task(services.profiles.renew("ann"))
    await began.wait()
    await erased(services)
    await services.store.engagements.add("ann", [engagement(9)])
    go.set()
    with pytest.raises(UserBeingErased):
        await writing
    assert await services.store.profiles.list_versions("ann") == []


async def test_a_running_batch_goes_on_without_the_user(serve: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    services = await serve()
    for name in ("ann", "bob"):
        await services.store.engagements.add(name, [engagement(n) for n in range(4)])
    began, go = asyncio.Event(), asyncio.Event()
    score = services.engine.next_logprobs

    async def slow(*args: Any, **kwargs: Any) -> Any:
        began.set()
        await go.wait()
        return await score(*args, **kwargs)

    monkeypatch.setattr(services.engine, "next_logprobs", slow)
    batch, _ = await services.batches.submit(BatchRequest(seed=1))
    await began.wait()
    await erased(services)
    # The id is used anew before the work on the erased rows ends.
    await services.store.engagements.add("ann", [engagement(n) for n in range(4)])
    go.set()
    async for state in services.batches.watch(batch.id):
        last = state
    assert last.state == "done"
    assert await services.store.traces.find(user="ann") == []
    assert {trace.user_id for trace in await services.store.traces.find()} == {"bob"}


async def test_what_a_batch_read_before_a_partial_erasure_is_not_stored(
    serve: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = await serve()
    await services.store.engagements.add("ann", [engagement(n) for n in range(4)])
    began, go = asyncio.Event(), asyncio.Event()
    score = services.engine.next_logprobs

    async def slow(*args: Any, **kwargs: Any) -> Any:
        began.set()
        await go.wait()
        return await score(*args, **kwargs)

    monkeypatch.setattr(services.engine, "next_logprobs", slow)
    batch, _ = await services.batches.submit(BatchRequest(seed=1))
    await began.wait()
    await erased(services, ErasureTarget(kind="engagement", user_id="ann", engagement_id="e000"))
    go.set()
    async for state in services.batches.watch(batch.id):
        last = state
    prompts = "".join(trace.prompt for trace in await services.store.traces.find(user="ann"))
    assert last.state == "done"
    assert last.skipped.get("erased", 0) > 0
    assert "walk number 0" not in prompts


async def test_old_rows_go_by_themselves(serve: Open, tmp_path: Path) -> None:
    services = await serve()
    version = await published(services, tmp_path)
    await services.store.engagements.add(
        "ann", [Engagement(id="new", prompt="p", response="r", occurred_at=START.replace(year=2199))]
    )
    services.retention._settings = services.settings.model_copy(update={"retain_engagements_days": 30.0})
    await services.retention.look()
    await services.erasures.run_open()
    assert [one.id for one in await services.store.engagements.list_page("ann")] == ["new"]
    assert await services.store.traces.find(user="ann") == []
    live = (await services.store.live_versions.get("user/ann")).live
    assert live is not None
    assert live.version == version.version


async def test_publications_that_ended_long_ago_go_by_themselves(serve: Open, tmp_path: Path) -> None:
    services = await serve()
    version = await published(services, tmp_path)
    job = await publication_of(services, "user/ann")
    services.retention._clock = lambda: datetime.now(UTC) + timedelta(days=29)
    await services.retention.look()
    assert (await services.publications.get(job)).result == version
    services.retention._clock = lambda: datetime.now(UTC) + timedelta(days=31)
    await services.retention.look()
    with pytest.raises(RecordNotFound):
        await services.publications.get(job)
    assert await answering(services) == "user/ann@1"


async def test_an_export_has_a_peft_folder_for_each_version(serve: Open, tmp_path: Path) -> None:
    services = await serve()
    await published(services, tmp_path)
    await published(services, tmp_path, "cohort/everyone", user="ann")
    await published(services, tmp_path, "cohort/everyone", user="bob")
    with (
        await services.exports.export("ann") as file,
        zipfile.ZipFile(io.BytesIO(file.read() or _all(file))) as archive,
    ):
        names = archive.namelist()
        lineage = [json.loads(line) for line in archive.read("lineage.jsonl").splitlines()]
        told = b"".join(archive.read(name) for name in names if name.endswith("l")).decode()
    assert "adapters/1/adapter_model.safetensors" in names
    assert "adapters/1/adapter_config.json" in names
    assert "adapters/1/README.md" in names
    assert [one["version"]["adapter"] for one in lineage] == ["cohort/everyone", "user/ann"]
    assert "bob" not in told


def _all(file: Any) -> bytes:
    file.seek(0)
    return bytes(file.read())


async def test_servers_with_folders_of_their_own_sign_with_one_key(services: Services, tmp_path: Path) -> None:
    """The second one had a key of its own, which stays readable there."""
    folder, former = tmp_path / "second", bytes(32)
    keep_key(folder, former)
    settings = services.settings.model_copy(update={"data_dir": folder})
    ctx = ServerContext(settings, services.store, services.engine, services.metrics)
    first = services.erasures
    await ErasureService(ctx, storage=first._storage, residency=first._residency, forget=()).prepare()
    assert find_key(folder) == find_key(services.settings.data_dir) != former
    assert read_key(folder / f"receipts.{key_id(former)}.key") == former
