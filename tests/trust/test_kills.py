"""Fifty kills of servers and trainers on both databases: nothing that was acknowledged is lost or changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from databases import POSTGRES, new_database
from kills.checker import count_violations
from kills.run import Plan, run_kills

pytestmark = pytest.mark.timeout(600)
LOG_CHARS = 8000
"""Characters of each server's log that a failure shows."""
PLANS = [
    pytest.param(Plan("sqlite", kills=15, seed=1), id="sqlite"),
    pytest.param(Plan("postgresql", kills=15, seed=2), id="postgresql"),
    pytest.param(Plan("postgresql", kills=20, seed=3, replicas=2), id="postgresql-2-replicas"),
]


def read_logs(folder: Path) -> str:
    """Return the end of what each server logged."""
    return "\n".join(file.read_text(errors="replace")[-LOG_CHARS:] for file in sorted(folder.glob("server-*.log")))


@pytest.mark.parametrize("plan", PLANS)
async def test_acknowledged_writes_survive_kills(plan: Plan, tmp_path: Path) -> None:
    if plan.database == "postgresql" and POSTGRES == "off":
        pytest.skip("PostgreSQL is off")
    async with new_database(plan.database, tmp_path) as url:
        outcome = await run_kills(plan, tmp_path, url)
    assert outcome.violations == [], read_logs(tmp_path)
    assert outcome.found == count_violations([])
    assert sum(outcome.killed.values()) == plan.kills
    assert all(outcome.acknowledged[kind] for kind in ("engagements", "batches", "leases", "versions"))
