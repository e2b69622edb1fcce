"""All adapters of a server, page after page."""

from __future__ import annotations

from mindprint import AsyncMindprintClient
from mindprint.types import Adapter


async def list_adapters(client: AsyncMindprintClient) -> list[Adapter]:
    """Return all adapters of the server, ordered by key."""
    page = await client.adapters.list()
    adapters = list(page.adapters)
    while page.next is not None:
        page = await client.adapters.list(after=page.next)
        adapters += page.adapters
    return adapters
