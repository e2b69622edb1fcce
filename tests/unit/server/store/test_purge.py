"""Deleted rows in the files of SQLite. The statements are SQLite's own: pages, not the store's tables, are at stake."""

from __future__ import annotations

import random
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mindprint_server.store.database import Database

WORD = b"CANARY"


async def fill_and_delete(db: AsyncConnection, seed: int) -> None:
    """Rows in a random order, a third of them with the word, some of them updated; then that third is deleted.

    With `secure_delete` alone SQLite 3.40 leaves copies in nine of ten such files.
    """
    chance, ids = random.Random(seed), []
    await db.execute(text("CREATE TABLE t (id TEXT PRIMARY KEY, u TEXT, body TEXT, n INTEGER)"))
    await db.execute(text("CREATE INDEX i ON t (u, n, id)"))
    for _ in range(30):
        rows = []
        for n in range(100):
            user, id = chance.choice(["ann", "bob", "cas"]), f"{chance.getrandbits(128):032x}"
            body = f"{'CANARY' if user == 'ann' else 'plain'}{id} " * chance.choice([1, 1, 2, 10, 300])
            rows.append({"id": id, "u": user, "body": body, "n": n})
            ids.append(id)
        await db.execute(text("INSERT INTO t VALUES (:id, :u, :body, :n)"), rows)
        changed = [{"id": id} for id in chance.sample(ids, 60)]
        await db.execute(text("UPDATE t SET n = n + 1 WHERE id = :id"), changed)
    await db.execute(text("DELETE FROM t WHERE u = 'ann'"))


async def test_purge_leaves_nothing_of_deleted_rows(tmp_path: Path) -> None:
    database = await Database.open(f"sqlite+aiosqlite:///{tmp_path / 'store.db'}", busy_timeout_s=30)
    await database.write(fill_and_delete, 1)
    await database.purge([])
    assert files_with_the_word(tmp_path) == []
    await database.close()


def files_with_the_word(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir() if WORD in file.read_bytes()]
