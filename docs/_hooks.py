"""Keep reports of tuning runs out of the site's search: they are evidence, not answers."""

from __future__ import annotations

from typing import Any


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Exclude a page below `evidence/tuning/` from the search index."""
    if page.file.src_uri.startswith("evidence/tuning/"):
        page.meta["search"] = {"exclude": True}
    return markdown
