"""Every decision record has the form that docs/decisions/template.md gives, and no link of it leads nowhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
RECORDS = sorted((DOCS / "decisions").glob("[0-9]*.md"))
PAGES = sorted(page for folder in ("decisions", "evidence") for page in (DOCS / folder).rglob("*.md"))
PARTS = ["Status", "Context", "Decision", "Evidence", "Consequences"]
MAX_LINES = 60

STATUS = re.compile(r"^\*\*Status\.\*\* (accepted|(?:partly )?superseded by (\d{3}))(?:$|[;(, ])", re.MULTILINE)
PART = re.compile(r"^\*\*(\w+)\.\*\*", re.MULTILINE)
LINK = re.compile(r"(?:\]\(|^\[[^\]]+\]: +)([^)\s]+)", re.MULTILINE)


def _read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def _status(record: Path) -> re.Match[str]:
    status = STATUS.search(_read(record))
    assert status, f"{record.name} has no valid status: accepted, superseded by NNN, or partly superseded by NNN"
    return status


def _id(page: Path) -> str:
    return str(page.relative_to(DOCS))


def test_records_are_numbered_without_a_gap() -> None:
    assert [record.name[:3] for record in RECORDS] == [f"{number:03}" for number in range(1, len(RECORDS) + 1)]


@pytest.mark.parametrize("record", RECORDS, ids=_id)
def test_record_has_its_title_and_parts_in_order(record: Path) -> None:
    text = _read(record)
    assert text.startswith(f"# {record.name[:3]}: ")
    assert PART.findall(text) == PARTS


@pytest.mark.parametrize("record", RECORDS, ids=_id)
def test_record_is_short(record: Path) -> None:
    lines = _read(record).splitlines()
    assert len(lines) <= MAX_LINES
    assert not [line for line in lines if len(line) > 120 and not line.startswith("|")]


@pytest.mark.parametrize("record", RECORDS, ids=_id)
def test_superseding_record_exists_and_says_so(record: Path) -> None:
    number = _status(record)[2]
    if number is None:
        return
    (successor,) = (DOCS / "decisions").glob(f"{number}-*.md")
    (line,) = (line for line in _read(successor).splitlines() if line.startswith("**Status.**"))
    assert "supersedes" in line
    assert record.name[:3] in line


@pytest.mark.parametrize("record", RECORDS, ids=_id)
def test_index_lists_title_and_status(record: Path) -> None:
    title = _read(record).splitlines()[0].removeprefix(f"# {record.name[:3]}: ")
    row = f"| [{record.name[:3]}]({record.name}) | {title} | {_status(record)[1]} | "
    assert row in _read(DOCS / "decisions" / "index.md")


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_relative_links_resolve(page: Path) -> None:
    links = [link for link in LINK.findall(_read(page)) if not re.match(r"[a-z]+:|#", link)]
    assert not [link for link in links if not (page.parent / link.partition("#")[0]).exists()]
