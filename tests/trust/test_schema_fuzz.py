"""Requests generated from the schema, single and in chains: no answer is a fault, and none breaks the schema."""

from __future__ import annotations

from pathlib import Path

import pytest

from schema_fuzz import NAMES, fuzz

MIN_REACHED = 40
"""Operations, of 60, that the admin's requests must reach, so that the rest is not about 404 only."""


@pytest.mark.timeout(600)
async def test_generated_requests_break_neither_server_nor_schema(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'fuzz.db'}"
    results = await fuzz(tmp_path, url, examples=3, seed=1, is_short=True)
    assert [one.key for one in results] == list(NAMES)
    assert {one.key: one.failures for one in results if one.failures} == {}, "\n".join(one.log for one in results)
    admin = results[0]
    assert admin.reached >= MIN_REACHED
