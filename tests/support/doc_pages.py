"""The hand-written pages of the documentation, and what stands in them: code blocks, inline code, prose."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"

BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
SKIPPED = ("decisions", "evidence", "reference")
"""Folders that are evidence, records with a test of their own, or generated."""
WRITTEN_REFERENCE = ("data-formats.md", "python-client.md")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    language: str
    code: str


def pages() -> list[Path]:
    """Return README and every hand-written page."""
    found = [page for page in sorted(DOCS.rglob("*.md")) if page.relative_to(DOCS).parts[0] not in SKIPPED]
    return [README, *found, *(DOCS / "reference" / name for name in WRITTEN_REFERENCE)]


def name(page: Path) -> str:
    """Return a page's path, as the id of a test."""
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    return [Block(match[2], match[3]) for match in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def without_blocks(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return BLOCK.sub("", page.read_text(encoding="utf-8"))


def inline_code(page: Path) -> list[str]:
    """Return what stands in backticks outside of fenced blocks."""
    return INLINE.findall(without_blocks(page))


def sentences(page: Path) -> list[str]:
    """Return the sentences of the prose: no headings, tables, blocks, HTML; a list item ends one."""
    found: list[str] = []
    paragraph: list[str] = []
    for line in [*without_blocks(page).splitlines(), ""]:
        text = line.strip()
        starts_item = re.match(r"([-*]|\d+\.) ", text) is not None
        breaks = not text or text.startswith(("#", "|", "<", "!", ":::", "$"))
        if (breaks or starts_item) and paragraph:
            found += re.split(r"(?<=[.!?:;])\s+", _plain(" ".join(paragraph)))
            paragraph = []
        if not breaks:
            paragraph.append(re.sub(r"^([-*]|\d+\.) ", "", text))
    return found


def _plain(text: str) -> str:
    """Return text with links and inline code as one word each."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return INLINE.sub("code", text).replace("**", "")
