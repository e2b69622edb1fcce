"""The page of the trust tests shows what the kept reports hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support import trust_table

ACKNOWLEDGED = {kind: 2000 + place for place, kind in enumerate(trust_table.KINDS)}


def report(*runs: dict[str, Any]) -> dict[str, Any]:
    return {"command": "make trust ARGS='--kills 9'", "kills": {"runs": list(runs)}}


def run(database: str, replicas: int, **found: int) -> dict[str, Any]:
    return {
        "plan": {"database": database, "replicas": replicas},
        "killed": {"server-0": 600, "server-1": 5, "trainer-0": 400},
        "acknowledged": ACKNOWLEDGED,
        "answers": {"200": 9, "lost": 7},
        "found": {"lost": 0, "trained_twice": 0} | found,
        "recovery_s": [0.25, 3.14],
        "seconds": 600.0,
    }


def test_runs_of_all_reports_are_columns_and_are_summed(tmp_path: Path) -> None:
    (tmp_path / "kills-1.json").write_text(json.dumps(report(run("sqlite", 1), run("postgresql", 1, lost=2))))
    (tmp_path / "kills-2.json").write_text(json.dumps(report(run("postgresql", 2))))
    lines = trust_table.kills(tmp_path).split("\n")
    assert "|  | SQLite, 1 server | PostgreSQL, 1 server | PostgreSQL, 2 servers |" in lines
    assert "| of these of servers | 605 | 605 | 605 |" in lines
    assert "| acknowledged: engagements | 2,000 | 2,000 | 2,000 |" in lines
    assert "| requests without an answer | 7 | 7 | 7 |" in lines
    assert "| seconds to recover: median, longest | 0.2, 3.1 | 0.2, 3.1 | 0.2, 3.1 |" in lines
    assert "| lost | 0 | 2 | 0 |" in lines
    assert lines[-1] == "In total 3,015 kills and 2 violations."
