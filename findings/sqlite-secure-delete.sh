#!/usr/bin/env bash
# SQLite: with PRAGMA secure_delete = ON, text of deleted rows stays in the database file.
#
# Where it hurts: a program deletes a person's rows, empties the write-ahead log and tells the person that the text is
# gone. It is still in the unused part of pages that hold rows of others: `strings` shows it.
#
# Expected, from the documentation: "When secure_delete is on, SQLite overwrites deleted content with zeros."
# Seen with 3.40.1: most files keep some copies once rows of a random order were inserted and updated. PRAGMA
#   integrity_check finds nothing wrong. VACUUM, which writes every page anew, removes them. The count is over ten files.
#
# Needs only Python's own sqlite3.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 - "$work" <<'PYTHON'
import random
import sqlite3
import sys
from pathlib import Path

FILES = 10
WORD = b"CANARY"


def fill(db: sqlite3.Connection, seed: int, updates: bool) -> None:
    """Insert 3,000 rows in a random order, a third with the word; then delete that third."""
    chance, ids = random.Random(seed), []
    db.execute("CREATE TABLE t (id TEXT PRIMARY KEY, u TEXT, body TEXT, n INTEGER)")
    db.execute("CREATE INDEX i ON t (u, n, id)")
    for _ in range(30):
        db.execute("BEGIN")
        for n in range(100):
            user, id = chance.choice(["ann", "bob", "cas"]), f"{chance.getrandbits(128):032x}"
            body = f"{'CANARY' if user == 'ann' else 'plain'}{id} " * chance.choice([1, 1, 2, 10, 300])
            db.execute("INSERT INTO t VALUES (?, ?, ?, ?)", (id, user, body, n))
            ids.append(id)
        if updates:
            for id in chance.sample(ids, 60):
                db.execute("UPDATE t SET n = n + 1 WHERE id = ?", (id,))
        db.execute("COMMIT")
    db.execute("DELETE FROM t WHERE u = 'ann'")


print("SQLite", sqlite3.sqlite_version)
for mode, updates in (("off", True), ("on", True), ("on", False)):
    copies, after = [], []
    for seed in range(FILES):
        path = Path(sys.argv[1]) / f"{mode}-{updates}-{seed}.db"
        db = sqlite3.connect(path, isolation_level=None)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA secure_delete = {mode}")
        fill(db, seed, updates)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        copies.append(path.read_bytes().count(WORD))
        db.execute("VACUUM")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        after.append(path.read_bytes().count(WORD))
        db.close()
    files = sum(count > 0 for count in copies)
    what = "with updates" if updates else "without updates"
    print(f"secure_delete = {mode}, {what}: {files} of {FILES} files keep {sum(copies)} copies; {sum(after)} after VACUUM")
PYTHON
