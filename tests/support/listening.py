"""Waits until a program that a test started listens."""

from __future__ import annotations

import asyncio

import pytest


async def wait_until_it_listens(process: asyncio.subprocess.Process, port: int, name: str) -> None:
    """Wait until the program takes connections on 127.0.0.1; fail with what it said if it ended.

    Args:
        process: The program, with a pipe for its stderr.
        port: Where it listens.
        name: The program's name, for the failure.
    """
    async with asyncio.timeout(20):
        while True:
            if process.returncode is not None:
                said = (await process.communicate())[1]
                pytest.fail(f"{name} ended: {said.decode()}", pytrace=False)
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return
