"""Erasures: afterwards no row of the user is left, and the receipt names what was removed."""

from __future__ import annotations

import asyncio
import random
import struct
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest

from databases import POSTGRES
from erasing import CANARY, everything, one, planted, receipt_of, run, signed, user
from mindprint.types import BatchRequest
from mindprint_server.store import (
    ErasureTarget,
    RecordNotFound,
    Store,
    tenants,
)
from mindprint_server.store.tables import metadata
from mindprint_server.tenancy import in_tenant


async def test_a_user_goes_whole_and_the_receipt_stays(store: Store, make: Any) -> None:
    await planted(store, make)
    await make.completed(store, await make.claim(store, adapter="user/ann"))
    await make.trained(store, "bob")
    receipt = receipt_of(await run(store, user()))
    assert receipt.counts == {
        "artifacts": 0,
        "batch_items": 4,
        "engagements": 4,
        "profiles": 1,
        "traces": 3,
        "versions": 1,
    }
    assert receipt.removed["versions"] == ["user/ann@1"]
    assert receipt.removed["profiles"] == ["1"]
    assert (receipt.withdrawn, receipt.signature) == ([], "s")
    rows = await everything(store)
    assert [table for table, text in rows.items() if CANARY in text] == []
    assert {table for table, text in rows.items() if "ann" in text} == {
        "erasures",
        "leases",
        "version_numbers",
        "batches",
    }
    assert (await store.live_versions.get("user/bob")).live is not None
    with pytest.raises(RecordNotFound):
        await store.users.get("ann")


async def test_a_repeated_request_returns_the_open_job_then_the_receipt(store: Store, make: Any) -> None:
    await make.user(store, "ann")
    first = await store.erasures.request(user())
    assert await store.erasures.request(user()) == first
    assert await store.erasures.request(one("e1")) == first
    done = await run(store, user())
    assert done.id == first.id
    assert await store.erasures.request(user()) == done
    assert await store.erasures.list_page() == [done]
    assert await store.erasures.list_page(after=done.id) == []
    with pytest.raises(RecordNotFound, match="no user 'eve': nothing is to be erased; GET /v1/users lists"):
        await store.erasures.request(user("eve"))
    await make.user(store, "ann")  # the id is free again
    assert (await store.erasures.request(user())).id != done.id


async def test_one_engagement_goes_with_all_that_may_show_it(store: Store, make: Any) -> None:
    await make.user(store, "ann", 4)
    for n in range(4):
        await store.traces.add(make.trace("ann", f"e{n}", thinking=f"t{n}"))
    for n in range(4):
        await store.profiles.add(make.profile("ann", covers_until=make.T0 + timedelta(hours=n)))
    batch, _ = await store.batches.add(BatchRequest(), [("ann", f"e{n}") for n in range(4)], max_open=9)
    receipt = receipt_of(await run(store, one("e2")))
    assert receipt.removed["engagements"] == ["e2"]
    assert receipt.removed["batch_items"] == [f"{batch.id}/e2"]
    assert receipt.removed["profiles"] == ["3", "4"]
    assert receipt.counts["traces"] == 2
    assert {t.engagement_id for t in await store.traces.find()} == {"e0", "e1"}
    assert [e.id for e in await store.engagements.list_page("ann")] == ["e0", "e1", "e3"]
    with pytest.raises(RecordNotFound):
        await store.erasures.request(one("e9"))
    assert receipt_of(await store.erasures.request(one("e2"))) == receipt


async def test_a_span_of_time_goes(store: Store, make: Any) -> None:
    await make.user(store, "ann", 5)
    hour = timedelta(hours=1)
    target = ErasureTarget(kind="range", user_id="ann", after=make.T0 + hour, before=make.T0 + 3 * hour)
    receipt = receipt_of(await run(store, target))
    assert receipt.removed["engagements"] == ["e1", "e2"]
    assert receipt_of(await store.erasures.request(target)) == receipt


async def test_retention_removes_old_rows_and_withdraws_nothing(store: Store, make: Any) -> None:
    await make.trained(store)
    await make.user(store, "ann", 3)
    held = await make.leased(store, "ann")
    before = make.T0 + timedelta(hours=1)
    terms = {"engagements_before": before, "traces_before": None}
    assert await store.erasures.list_expired_users(**terms, limit=9) == ["ann"]
    target = ErasureTarget(kind="retention", user_id="ann", before=before, traces_before=None)
    assert receipt_of(await run(store, target)).counts["engagements"] == 0  # its traces are leased
    await make.completed(store, held)
    receipt = receipt_of(await run(store, target))
    assert (receipt.removed["engagements"], receipt.counts["traces"]) == (["e0"], 4)
    assert (receipt.withdrawn, receipt.revoked_leases) == ([], [])
    assert (await store.live_versions.get("user/ann")).live is not None
    assert await store.erasures.list_expired_users(**terms, limit=9) == []
    # The traces are gone, yet a later erasure finds the versions that learned from them.
    assert receipt_of(await run(store, user())).removed["versions"] == ["user/ann@1", "user/ann@2"]


async def test_another_tenants_user_of_the_same_name_stays(store: Store, make: Any) -> None:
    await store._database.write(tenants.ensure, "acme")
    with in_tenant("acme"):
        await planted(store, make)
        await make.completed(store, await make.claim(store, adapter="user/ann"))
    await planted(store, make)
    receipt = receipt_of(await run(store, user()))
    assert receipt.tenant == "default"
    with in_tenant("acme"):
        assert len(await store.engagements.list_page("ann")) == 4
        assert (await store.live_versions.get("user/ann")).live is not None
        assert await store.erasures.list_page() == []
        with pytest.raises(RecordNotFound):
            await store.erasures.get(receipt.id)
    assert (await store.tenants.list_epochs())["acme"] == 0


async def test_the_files_of_the_database_keep_no_text(store: Store, make: Any, url: str, dialect: str) -> None:
    chance = random.Random(1)
    for _ in range(3):
        for name in ("ann", "bob", "cas"):
            ids = [f"{chance.getrandbits(128):032x}" for _ in range(40)]
            word = CANARY if name == "ann" else "plain"
            sizes = {id: chance.choice([1, 2, 100]) for id in ids}
            await store.engagements.add(
                name, [make.engagement(n, id=id, prompt=f"{word} {id} " * sizes[id]) for n, id in enumerate(ids)]
            )
            for id in ids[:10]:
                await store.traces.add(make.trace(name, id, thinking=f"{word} {id} " * sizes[id]))
    lease = await make.claim(store, adapter="user/ann")
    await store.leases.release(lease.id)
    await run(store, user())
    assert await found_in_files(url) != {}, "the rows are deleted, their bytes are still there"
    await store.erasures.purge()
    assert CANARY not in "".join((await everything(store)).values())
    async with asyncio.timeout(60):
        # PostgreSQL keeps rows that a transaction of another test may still see.
        while dialect == "postgresql" and await found_in_files(url):
            await store.erasures.purge()
    assert await found_in_files(url) == {}


async def found_in_files(url: str) -> dict[str, int]:
    """How often the canary is in the files of a database, by file; on PostgreSQL in the rows in the files of tables."""
    if not url.startswith("sqlite"):
        return await found_in_tables(url)
    files = [file for file in Path(url.partition("///")[2]).parent.iterdir() if file.stat().st_size]
    counts = {file.name: file.read_bytes().count(CANARY.encode()) for file in files}
    assert counts
    return {name: count for name, count in counts.items() if count}


async def found_in_tables(url: str) -> dict[str, int]:
    schema = url.rpartition("application_name=")[2]
    admin = await asyncpg.connect(f"postgresql://{POSTGRES}")
    try:
        await admin.execute("CHECKPOINT")
        rows = await admin.fetch(
            """
            SELECT own.relname, pg_read_binary_file(pg_relation_filepath(one.oid)) AS bytes
            FROM pg_class own JOIN pg_class one ON one.oid IN (own.oid, own.reltoastrelid)
            WHERE own.relnamespace = $1::regnamespace AND own.relkind = 'r'
            """,
            schema,
        )
    finally:
        await admin.close()
    counts = Counter[str]()
    for row in rows:
        counts[row["relname"]] += sum(item.count(CANARY.encode()) for item in rows_of_pages(row["bytes"]))
    assert counts
    return {name: count for name, count in counts.items() if count}


def rows_of_pages(pages: bytes, size: int = 8192) -> Iterator[bytes]:
    """The rows, dead ones too, that the pages of a PostgreSQL table point to ("Database Page Layout" in its manual).

    A vacuum takes the pointers away; the bytes lie in the free space until other rows overwrite them.
    """
    for page in (pages[start : start + size] for start in range(0, len(pages), size)):
        (end,) = struct.unpack_from("=H", page, 12)
        for (pointer,) in struct.iter_unpack("=I", page[24:end]):
            offset, flags, length = pointer & 0x7FFF, pointer >> 15 & 0x3, pointer >> 17
            if flags == 1:
                yield page[offset : offset + length]


def test_every_table_with_a_users_rows_is_known_to_erasures() -> None:
    """A new one must be added to `store/erasures.py`, to `store/erasure_plan.py`, and here."""
    known = {"engagements", "profiles", "batch_items", "traces", "version_users", "erasures"}
    assert {table.name for table in metadata.sorted_tables if "user_id" in table.c} == known


async def test_a_job_about_rows_that_another_has_removed_ends_with_nothing(store: Store, make: Any) -> None:
    await make.user(store, "ann")
    part = await store.erasures.request(one("e1"))
    whole = await store.erasures.request(user())
    assert await store.erasures.list_open() == [("default", part.id), ("default", whole.id)]
    receipt_of(await run(store, user()))
    plan = await store.erasures.collect(part.id)
    assert plan is not None
    assert (plan.engagements, plan.traces) == ([], [])
    await store.erasures.seal(part.id)
    done = await store.erasures.finish(part.id, signed)
    assert done is not None
    assert receipt_of(done).counts["engagements"] == 0
