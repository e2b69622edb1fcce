"""README quotes what benchmarks/results/ holds, and nothing else."""

from __future__ import annotations

import quote


def test_readme_quotes_the_results_that_are_kept() -> None:
    text = (quote.ROOT / "README.md").read_text()
    assert quote.quoted(text, quote.RESULTS) == text, "run python benchmarks/quote.py"
