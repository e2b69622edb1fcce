"""The report of runs: JSON for programs, a table for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from kills.checker import CHECKS, is_clean
from kills.run import Outcome


def as_json(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the whole report. `holds` says whether nothing was violated in any run."""
    return {"holds": all(is_clean(one.found) for one in outcomes), "runs": [asdict(one) for one in outcomes]}


def as_table(outcomes: Sequence[Outcome], title: str) -> Table:
    """Return a column for each run, with what was acknowledged and what was violated."""
    table = Table("", title=title)
    for one in outcomes:
        table.add_column(f"{one.plan.database}, {one.plan.replicas} server(s)", justify="right")
    rows: dict[str, list[str]] = {title: [str(sum(one.killed.values())) for one in outcomes]}
    for name in sorted({name for one in outcomes for name in one.killed}):
        rows[f"  {name}"] = [str(one.killed.get(name, 0)) for one in outcomes]
    for kind in outcomes[0].acknowledged:
        rows[f"acknowledged {kind}"] = [str(one.acknowledged[kind]) for one in outcomes]
    rows["seconds to recover: median, longest"] = ["{:.2f}, {:.2f}".format(*one.recovery_s) for one in outcomes]
    rows["seconds in total"] = [f"{one.seconds:.0f}" for one in outcomes]
    for check in CHECKS:
        rows[check.replace("_", " ")] = [str(one.found[check]) for one in outcomes]
    for name, values in rows.items():
        table.add_row(name, *values)
    return table
