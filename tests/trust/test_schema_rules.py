"""Rules that valid data may be refused by: each is of an operation that exists, and of a message of this code."""

from __future__ import annotations

from pathlib import Path

import pytest

from mindprint_server.app import create_app
from mindprint_server.settings import Settings
from schema_hooks import RULES

ROOT = Path(__file__).parents[2]
SOURCES = [*(ROOT / "client" / "mindprint" / "types").glob("*.py"), *(ROOT / "server").rglob("*.py")]


def test_operations_of_the_rules_exist() -> None:
    paths = create_app(Settings(engine="fake")).openapi()["paths"]
    operations = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert set(RULES) <= operations


@pytest.mark.parametrize("words", sorted({words for rules in RULES.values() for words in rules}))
def test_words_of_a_rule_are_in_the_code(words: str) -> None:
    assert any(words in source.read_text(encoding="utf-8") for source in SOURCES)
