"""Which versions keep their files: the newest few, and whatever is pinned or in use. The rows of all stay."""

from __future__ import annotations

import asyncio

import structlog

from mindprint_server.adapters.files import AdapterFiles
from mindprint_server.adapters.residents import Residents
from mindprint_server.store import Store

log = structlog.get_logger(__name__)


async def prune(store: Store, files: AdapterFiles, residents: Residents, key: str, keep: int) -> list[int]:
    """Removes the files of versions that nothing needs, but for the newest `keep`. Returns their numbers.

    The store forgets them first: what a crash leaves in between is an orphan, and collected at the next start.
    """
    gone = []
    for number in await store.prunable(key, keep):
        if residents.needs(key, number):
            continue  # at the next time
        if await store.forget_files(key, number):
            await asyncio.to_thread(files.remove, key, number)
            gone.append(number)
    if gone:
        log.info("files of old versions were removed", adapter=key, versions=gone)
    return gone
