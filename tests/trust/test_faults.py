"""Faults of the database and of the pooler under load; and that each promise names a test that exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from databases import POSTGRES
from faults import PROMISES, Promise, own_database, pooled_database
from kills.run import Plan, run_kills

ROOT = Path(__file__).parents[2]
PLAN = Plan("postgresql", kills=8, seed=4)
STOPS = Plan("postgresql", kills=2, seed=1)


@pytest.mark.timeout(600)
@pytest.mark.skipif(POSTGRES == "off", reason="PostgreSQL is off")
async def test_acknowledged_writes_survive_lost_connections(tmp_path: Path) -> None:
    async with pooled_database(tmp_path) as (url, faults):
        outcome = await run_kills(PLAN, tmp_path, url, faults)
    assert outcome.violations == []
    assert sum(outcome.killed.values()) == PLAN.kills
    assert all(outcome.killed.values()), "each fault was done"
    assert outcome.acknowledged["engagements"]
    assert outcome.acknowledged["batches"]


@pytest.mark.timeout(600)
@pytest.mark.skipif(POSTGRES == "off", reason="PostgreSQL is off")
async def test_acknowledged_writes_survive_stops_and_kills_of_the_database(tmp_path: Path) -> None:
    with own_database() as (url, faults):
        outcome = await run_kills(STOPS, tmp_path, url, faults)
    assert outcome.violations == []
    assert all(outcome.killed.values()), "each fault was done"
    assert outcome.answers["503"], "callers met a database that was away"
    assert outcome.acknowledged["engagements"]
    assert outcome.acknowledged["batches"]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.fault)
def test_promise_names_a_test_that_exists(promise: Promise) -> None:
    file, _, function = promise.test.partition("::")
    assert f"def {function}(" in (ROOT / file).read_text(encoding="utf-8")
