"""Words that were replaced by the field's own do not come back. `docs/reference/old-words.md` has old and new.

Decision records, kept runs, evidence and old benchmark results keep the words of their day. So do migrations.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("benchmarks", "client", "deploy", "docs", "server", "tests", "trainer")
SUFFIXES = {".py", ".md", ".toml", ".j2", ".yml", ".yaml"}
EXEMPT = (
    "benchmarks/results",
    "docs/decisions",
    "docs/evidence",
    "docs/reference/old-words.md",
    "docs/runs",
    "server/mindprint_server/store/migrations",
    "tests/docs/test_old_names.py",
)

OLD_NAMES = [
    "AdapterLife",
    "Asker",
    "BodyLimit",
    "Boards",
    "Commits",
    "GivenDesk",
    "GivenTrace",
    "Heart",
    "Inflight",
    "Intake",
    "Judgement",
    "LeaseDesk",
    "Recollection",
    "RequestLog",
    "Residents",
    "Timeline",
    "Together",
    "Warmer",
    "after_rejected",
    "answer_lead",
    "batch_patience_s",
    "blind_candidates",
    "canary_failed",
    "canary_items",
    "canary_tolerance",
    "canary_min_shift",
    "cancel_brothers",
    "give_up",
    "give_up_score",
    "holdout_least",
    "holdout_most",
    "inflight",
    "next_draw",
    "no_strangers",
    "of_thinking",
    "opening_recall",
    "proof_patience_s",
    "release_candidate",
    "traces_given",
    "warm_versions",
    "whole_joins",
    "write_one",
]
"""Identifiers that stand for one thing each and are searched as whole words."""

OLD_MODULES = [
    "mindprint.aio",
    "mindprint.answers",
    "mindprint.api",
    "mindprint.calls",
    "mindprint.demo",
    "mindprint.evaluation",
    "mindprint.imports",
    "mindprint.records",
    "mindprint.replies",
    "mindprint.wire",
    "mindprint_server.asking",
    "mindprint_server.attempt",
    "mindprint_server.batches",
    "mindprint_server.draws",
    "mindprint_server.errors",
    "mindprint_server.given",
    "mindprint_server.inflight",
    "mindprint_server.judge",
    "mindprint_server.near",
    "mindprint_server.planner",
    "mindprint_server.room",
    "mindprint_server.routes",
    "mindprint_server.services",
    "mindprint_server.styles",
    "mindprint_server.warm",
    "mindprint_server.writer",
    "mindprint_trainer.boards",
    "mindprint_trainer.heart",
    "mindprint_trainer.lanes",
    "mindprint_trainer.loop",
    "mindprint_trainer.starts",
    "mindprint_trainer.view",
]


def pages() -> Iterator[tuple[str, str]]:
    """Yield the path and the text of every file that is held to the new words."""
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*"))]
    for path in [ROOT / "README.md", ROOT / "pyproject.toml", *paths]:
        name = path.relative_to(ROOT).as_posix()
        if path.suffix in SUFFIXES and path.is_file() and not name.startswith(EXEMPT):
            yield name, path.read_text(encoding="utf-8")


def uses(name: str, text: str) -> list[int]:
    """Return the numbers of the lines that use a name as a whole word."""
    pattern = re.compile(rf"(?<![\w.]){re.escape(name)}(?![\w])")
    return [number for number, line in enumerate(text.splitlines(), start=1) if pattern.search(line)]


PAGES = dict(pages())


@pytest.mark.parametrize("name", sorted({*OLD_NAMES, *OLD_MODULES}))
def test_old_name_is_gone(name: str) -> None:
    found = [f"{path}:{number}" for path, text in PAGES.items() for number in uses(name, text)]
    assert not found, f"{name} is an old name, see docs/reference/old-words.md:\n" + "\n".join(found)


def test_search_finds_a_whole_word_only() -> None:
    assert uses("Asker", "x = Asker()\nAskers\nMyAsker\n") == [1]
