"""What only an admin may know of the server: where it listens, and what it stores in."""

from __future__ import annotations

import asyncio

from mindprint.types import SystemInfo
from mindprint_server.operation import disk
from mindprint_server.settings import Settings


async def describe(settings: Settings, *, database: str, artifacts_problem: str | None) -> SystemInfo:
    """Describe a running server.

    Args:
        settings: Its settings.
        database: The kind of its database, `sqlite` or `postgresql`.
        artifacts_problem: Why the artifact store cannot be used; None if it can.
    """
    return SystemInfo(
        host=settings.host,
        port=settings.port,
        openapi=settings.openapi,
        database=database,
        free_bytes=await asyncio.to_thread(disk.free_bytes, settings.data_dir),
        min_free_bytes=settings.min_free_bytes,
        artifacts=describe_artifacts(settings.artifact_url),
        artifacts_problem=artifacts_problem,
    )


def describe_artifacts(url: str | None) -> str:
    """Return the kind of an artifact store. Its URL may hold a password."""
    if url is None:
        return "a folder in data_dir"
    scheme, separator, _ = url.partition("://")
    return f"{scheme}://..." if separator and scheme != "file" else "a folder"
