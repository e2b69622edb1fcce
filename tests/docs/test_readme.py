"""README is a door: short, and with the two commands first."""

from __future__ import annotations

from doc_pages import DOCS, README, blocks

MAX_LINES = 150


def test_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_readme_begins_with_the_two_commands() -> None:
    first = blocks(README)[0].code
    assert "make demo" in first
    assert "make test" in first


def test_readme_quotes_what_the_demo_printed() -> None:
    printed = (DOCS / "runs" / "four-users.txt").read_text(encoding="utf-8").splitlines()
    quoted = next(block.code for block in blocks(README) if "failed requests" in block.code).splitlines()
    assert len(quoted) >= 10
    assert not [line for line in quoted if line not in {row.rstrip() for row in printed}]


def test_readme_shows_five_minutes_of_use() -> None:
    """`tests/e2e/test_loop.py` runs these blocks."""
    code = "\n".join(block.code for block in blocks(README) if block.language in ("python", "bash"))
    assert "engagements" in code
    assert "batches" in code
    assert '"user/ann"' in code
