"""Which answers the service promises to callers while it is killed, or its database is away."""

from __future__ import annotations

import httpx


def is_undone(response: httpx.Response) -> bool:
    """Tell whether a reply says that nothing was done, and when to come again."""
    return response.status_code in (429, 503) and "retry-after" in response.headers


def is_unknown(response: httpx.Response) -> bool:
    """Tell whether a reply says that the write may have been stored, since the connection was lost at the commit.

    It is for the caller to look, so nothing in the headers may make a client send it again.
    """
    headers = response.headers
    if response.status_code != 503 or "retry-after" in headers or "x-should-retry" in headers:
        return False
    error = response.json()["error"]
    return error["code"] == "store_busy" and "may have stored" in error["message"]
