#!/usr/bin/env bash
# asyncpg 0.32.0: a session that the server ends is reported in two ways, by chance; one of them blames the caller.
#
# Where it hurts: PostgreSQL restarts, fails over, or an operator ends a session. Code that takes asyncpg's
# ConnectionDoesNotExistError, InterfaceError and OSError (or SQLSTATE class 08 and 57P) for "lost, retry" misses a good
# part of these. The words "another operation is in progress" send the reader to look for two tasks on one connection;
# there is one task here. It is so with and without the cache of statements.
#
# Expected: every statement on a session that was ended raises ConnectionDoesNotExistError (SQLSTATE 08003).
# Seen: the others raise InternalClientError, "cannot switch to state ...; another operation (2) is in progress". It has
#   no SQLSTATE and is neither a PostgresError nor an InterfaceError nor an OSError. It happens where statements follow
#   each other closely, so it is counted over many sessions.
#
# Needs a PostgreSQL server; it ends only the sessions that it opened itself.
set -euo pipefail
url="${POSTGRES:-postgres@127.0.0.1:5432/test}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check asyncpg==0.32.0
"$work/venv/bin/python" - "$url" <<'PYTHON'
import asyncio
import sys
from collections import Counter

import asyncpg

SESSIONS = 150


async def work(connection: asyncpg.Connection) -> None:
    """One task, one connection, one statement after the other."""
    while True:
        transaction = connection.transaction()
        await transaction.start()
        await connection.fetch("SELECT generate_series(1, 200)")
        await transaction.commit()


async def count(statement_cache_size: int) -> Counter[str]:
    seen: Counter[str] = Counter()
    admin = await asyncpg.connect(f"postgresql://{sys.argv[1]}")
    for number in range(SESSIONS):
        connection = await asyncpg.connect(f"postgresql://{sys.argv[1]}", statement_cache_size=statement_cache_size)
        task = asyncio.create_task(work(connection))
        await asyncio.sleep(0.003 + number % 6 * 0.0007)
        await admin.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
        try:
            await task
        except asyncpg.PostgresConnectionError as error:
            assert error.sqlstate == "08003"
            seen["ConnectionDoesNotExistError"] += 1
        except asyncpg.InternalClientError as error:
            assert not isinstance(error, (asyncpg.PostgresError, asyncpg.InterfaceError, OSError))
            assert "another operation" in str(error) and not getattr(error, "sqlstate", None)
            seen["InternalClientError"] += 1
        connection.terminate()
    await admin.close()
    return seen


usual, without_cache = asyncio.run(count(100)), asyncio.run(count(0))
print("asyncpg", asyncpg.__version__, "| statement cache:", dict(usual), "| none:", dict(without_cache))
for seen in (usual, without_cache):
    assert set(seen) == {"ConnectionDoesNotExistError", "InternalClientError"}, seen
PYTHON
