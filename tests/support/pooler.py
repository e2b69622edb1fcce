"""A real PgBouncer in transaction mode, in front of the PostgreSQL server of the tests.

It comes from Debian (`apt-get install pgbouncer`). MINDPRINT_TEST_POOLER=required makes its absence a failure.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from databases import POSTGRES
from listening import wait_until_it_listens

CONFIG = """
[databases]
* = host={host} port={port} user={user} password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {sessions}
max_client_conn = 500
"""


def find_pgbouncer() -> str:
    """Return the program; skip the test where it is missing, or fail if it must be there."""
    path = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin"
    if found := shutil.which("pgbouncer", path=path):
        return found
    message = "there is no pgbouncer: apt-get install pgbouncer"
    if os.environ.get("MINDPRINT_TEST_POOLER") == "required":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


@asynccontextmanager
async def pooler(folder: Path, *, sessions: int = 4, port: int | None = None) -> AsyncIterator[str]:
    """Run a pooler, and yield its address, such as `postgres@127.0.0.1:6543/test`.

    Args:
        folder: Where its configuration is written.
        sessions: Sessions of the database that all clients share.
        port: Where it listens; None takes a free one.
    """
    program, server = find_pgbouncer(), urlsplit(f"postgresql://{POSTGRES}")
    with socket.create_server(("127.0.0.1", port or 0)) as free:
        listen = free.getsockname()[1]
    config = folder / "pgbouncer.ini"
    login = {"user": server.username, "password": server.password or "none"}
    there = {"host": server.hostname, "port": server.port or 5432}
    config.write_text(CONFIG.format(**login, **there, listen=listen, sessions=sessions))
    # As root it refuses to run. It reads the file before it changes the user.
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    process = await asyncio.create_subprocess_exec(program, "-q", *user, str(config), stderr=asyncio.subprocess.PIPE)
    try:
        await wait_until_it_listens(process, listen, "pgbouncer")
        yield f"{server.username}@127.0.0.1:{listen}{server.path}"
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
