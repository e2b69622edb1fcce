"""Architectures go through every step on real vLLM, or are refused at start with the reason.

`python benchmarks/architecture_matrix.py` runs all of `ARCHITECTURES`. Here are some, with tokenizers of their own.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from architecture_steps import run_steps
from architectures import ARCHITECTURES

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
SERVED = ("qwen2", "gemma2")
"""A tokenizer that splits as Qwen2's does; soft caps, and a template without a system role."""
REFUSED = tuple(name for name, architecture in ARCHITECTURES.items() if architecture.refusal)


@pytest.mark.parametrize("name", SERVED)
async def test_architecture_goes_through_every_step(name: str, tmp_path: Path) -> None:
    results = await run_steps(ARCHITECTURES[name], tmp_path)
    failed = {step: result.why for step, result in results.items() if result.outcome != "yes"}
    assert not failed


@pytest.mark.parametrize("name", REFUSED)
async def test_architecture_that_cannot_be_served_is_refused_at_start(name: str, tmp_path: Path) -> None:
    results = await run_steps(ARCHITECTURES[name], tmp_path)
    assert results["load"].outcome == "refused", results["load"].why
