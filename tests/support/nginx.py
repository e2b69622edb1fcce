"""A real nginx that runs a `server` block. It comes from Debian (`apt-get install nginx`).

MINDPRINT_TEST_PROXY=required makes its absence a failure.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from listening import wait_until_it_listens

CONFIG = """
daemon off;
{user}
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{server}
}}
"""


def find_nginx() -> str:
    """Return the program; skip the test where it is missing, or fail if it must be there."""
    if found := shutil.which("nginx", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin"):
        return found
    message = "there is no nginx: apt-get install nginx"
    if os.environ.get("MINDPRINT_TEST_PROXY") == "required":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


@asynccontextmanager
async def nginx(folder: Path, server: str, port: int) -> AsyncIterator[None]:
    """Run nginx.

    Args:
        folder: An existing folder for its files.
        server: The `server` block.
        port: Where the block listens on 127.0.0.1.
    """
    program, config = find_nginx(), folder / "nginx.conf"
    # Its workers would run as another account, which cannot enter the test's folder.
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(CONFIG.format(user=user, folder=folder, server=server))
    arguments = ("-c", str(config), "-p", str(folder), "-e", "stderr")
    process = await asyncio.create_subprocess_exec(program, *arguments, stderr=asyncio.subprocess.PIPE)
    try:
        await wait_until_it_listens(process, port, "nginx")
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()
