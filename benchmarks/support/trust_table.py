"""The table of kept kill runs in `docs/operations/trust-tests.md`, from the reports of `make trust`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

KINDS = ("engagements", "imported", "traces", "batches", "cancelled", "leases", "versions", "pins", "cohorts", "keys")


def kills(folder: Path) -> str:
    """Render the kept runs as a Markdown table with a column for each database and number of servers.

    Args:
        folder: Holds reports of `make trust`, named `kills-*.json`.
    """
    reports = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("kills-*.json"))]
    runs = [run for report in reports for run in report["kills"]["runs"]]
    commands = [f"`{report['command']}`" for report in reports]
    lines = [
        f"Figures of {' and '.join(commands)}, on two cores that other work shared:",
        "",
        _row("", [_title(run["plan"]) for run in runs]),
        "|---" * (len(runs) + 1) + "|",
        _row("kills", [sum(run["killed"].values()) for run in runs]),
        _row("of these of servers", [_of_servers(run["killed"]) for run in runs]),
    ]
    lines += [_row(f"acknowledged: {kind}", [run["acknowledged"][kind] for run in runs]) for kind in KINDS]
    lines += [
        _row("requests without an answer", [run["answers"].get("lost", 0) for run in runs]),
        _row("seconds to recover: median, longest", ["{:.1f}, {:.1f}".format(*run["recovery_s"]) for run in runs]),
        _row("minutes in total", [f"{run['seconds'] / 60:.0f}" for run in runs]),
    ]
    lines += [_row(check.replace("_", " "), [run["found"][check] for run in runs]) for check in runs[0]["found"]]
    total = sum(sum(run["killed"].values()) for run in runs)
    violations = sum(sum(run["found"].values()) for run in runs)
    return "\n".join([*lines, "", f"In total {total:,} kills and {violations:,} violations."])


def _row(name: str, values: Sequence[Any]) -> str:
    shown = (f"{value:,}" if isinstance(value, int) else str(value) for value in values)
    return f"| {name} | {' | '.join(shown)} |"


def _title(plan: dict[str, Any]) -> str:
    name = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}[plan["database"]]
    return f"{name}, {plan['replicas']} server{'s' * (plan['replicas'] > 1)}"


def _of_servers(killed: dict[str, int]) -> int:
    return sum(count for name, count in killed.items() if name.startswith("server"))
