"""A PostgreSQL server of a test's own, which can be stopped and killed. The server of `databases` goes on.

Its programs come from Debian (`apt-get install postgresql`). Where MINDPRINT_TEST_POSTGRES names a server, their
absence is a failure.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from certificates import Certificates
from databases import NAMED
from mindprint.local.processes import free_port

WITHIN_S = 60
"""Seconds in which the server starts or stops. It bounds a test that would hang."""
ACCOUNTS = ("postgres", "nobody")
"""Accounts that the server runs as where the tests run as root, which PostgreSQL refuses. The first that exists."""


def find_programs() -> Path:
    """Return the folder of PostgreSQL's programs; skip the test where there is none, or fail if it must be there."""
    if found := shutil.which("pg_ctl"):
        return Path(found).resolve().parent
    if installed := sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl")):
        return installed[-1].parent
    message = "there is no pg_ctl of PostgreSQL: apt-get install postgresql"
    if NAMED not in (None, "off"):
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


class PostgresServer:
    """Starts, stops and kills one server on 127.0.0.1.

    Attributes:
        folder: A folder of the server's account.
        port: Where it listens.
        url: The URL of an empty database, as people write it.
    """

    def __init__(self, programs: Path, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        self._programs = programs
        self._data = folder / "data"
        self._log = folder / "log"
        self._account: dict[str, Any] = {}
        if os.geteuid() == 0:
            account = _account()
            os.chown(folder, account.pw_uid, account.pw_gid)
            self._account = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}

    def create(self, certificates: Certificates | None) -> None:
        """Make the data folder.

        Args:
            certificates: For TLS; None takes none.
        """
        self._run("initdb", "-D", self._data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        own = {"listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": ""}
        if certificates is not None:
            self._copy(certificates.server, "server.crt")
            self._copy(certificates.key, "server.key")
            own["ssl"] = "on"
        lines = "".join(f"{name} = '{value}'\n" for name, value in own.items())
        with (self._data / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write(lines)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._run("pg_ctl", "start", "-w", "-t", str(WITHIN_S), "-D", self._data, "-l", self._log)

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop it: `fast` ends the sessions and shuts down, `immediate` kills its processes, so that it recovers."""
        self._run("pg_ctl", "stop", "-w", "-t", str(WITHIN_S), "-m", mode, "-D", self._data)

    def is_running(self) -> bool:
        """Return whether it was started and not stopped."""
        return (self._data / "postmaster.pid").exists()

    def _copy(self, source: Path, name: str) -> None:
        file = self._data / name
        file.write_bytes(source.read_bytes())
        file.chmod(0o600)
        if self._account:
            os.chown(file, self._account["user"], self._account["group"])

    def _run(self, program: str, *arguments: str | Path) -> None:
        """Run one of PostgreSQL's programs as the server's account; fail the test with what it says if it fails."""
        # The output goes to a file: a server that pg_ctl starts would keep a pipe open.
        with tempfile.TemporaryFile() as output:
            command = [str(self._programs / program), *map(str, arguments)]
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self.folder, check=False,
                env=os.environ | {"LC_ALL": "C"}, **self._account,
            )  # fmt: skip
            output.seek(0)
            said = output.read().decode(errors="replace")
        if done.returncode:
            log = self._log.read_text(errors="replace")[-1000:] if self._log.exists() else ""
            pytest.fail(f"{program}: {said} {log}", pytrace=False)


@contextmanager
def postgres_server(certificates: Certificates | None = None) -> Iterator[PostgresServer]:
    """Run a server of its own.

    Args:
        certificates: For connections with TLS, which it then takes beside others; None takes none.
    """
    programs = find_programs()
    # Not in pytest's own folder, which another account cannot enter.
    with tempfile.TemporaryDirectory(prefix="mindprint-postgres-") as folder:
        server = PostgresServer(programs, Path(folder), free_port())
        server.create(certificates)
        try:
            server.start()
            yield server
        finally:
            if server.is_running():
                server.stop("immediate")


def _account() -> pwd.struct_passwd:
    for name in ACCOUNTS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    pytest.fail(f"PostgreSQL does not run as root, and there is no account of {ACCOUNTS}")
