"""Generated pages and pictures are what the code says today."""

from __future__ import annotations

import _generate
import _reference


def test_generated_files_are_fresh() -> None:
    assert _generate.stale(_generate.generated()) == [], "run python docs/_generate.py"


def test_every_setting_has_a_meaning() -> None:
    for text in (_reference.settings_server(), _reference.settings_trainer()):
        assert text.count("| `") > 40


def test_a_google_docstring_becomes_markdown() -> None:
    args = "Args:\n    name: What it is\n        called.\n    size: In bytes.\n"
    assert _reference.docstring(f"Do it.\n\n{args}\nRaises:\n    ValueError: never\n") == (
        "Do it.\n\n\n**Args**\n\n- name: What it is\n  called.\n- size: In bytes.\n"
        "\n\n**Raises**\n\n- ValueError: never"
    )


def test_a_cell_stays_in_one_line() -> None:
    assert _reference.cell("one | two\nthree") == "one \\| two three"
