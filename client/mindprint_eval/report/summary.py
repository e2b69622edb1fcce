"""Short tables of arms and claims for the terminal."""

from __future__ import annotations

import math
from pathlib import Path

from rich.table import Table

from mindprint_eval.report.analysis import Analysis, arm_value, load_analysis, mean_over_users

GAP = "-"


def summary_tables(folder: Path) -> list[Table]:
    """Of an evaluation's folder, computed from its tables."""
    found = load_analysis(folder)
    return [arms_table(found), claims_table(found)]


def arms_table(found: Analysis) -> Table:
    """Accuracy and log-probability with their intervals over users, collapse, and what was not answered."""
    table = Table("arm", "what", title="Arms", title_justify="left")
    for name in ("right, %", "nats of the real answer", "collapse, %", "missing"):
        table.add_column(name, justify="right")
    missing = (~found.answers["answered"].astype(bool)).groupby(found.answers["arm"]).sum()
    for arm in [*found.arms, *found.baselines]:
        table.add_row(
            arm,
            found.whats.get(arm, ""),
            format_mean(found, arm, "accuracy", 100, 0),
            format_mean(found, arm, "logprob", 1, 2),
            format_number(arm_value(found.thinking, arm, "collapse"), 100, 0),
            f"{int(missing.get(arm, 0))}",
        )
    return table


def claims_table(found: Analysis) -> Table:
    table = Table("claim", "", "in full", title="Claims", title_justify="left")
    said = {True: "held", False: "did not hold", None: "cannot be said"}
    for claim in found.claims:
        table.add_row(claim.name, said[claim.holds], claim.detail)
    return table


def format_mean(found: Analysis, arm: str, column: str, scale: float, digits: int) -> str:
    mean = mean_over_users(found.per_user, arm, column)
    if math.isnan(mean.mean):
        return GAP
    bounds = [format_number(bound, scale, digits) for bound in (mean.low, mean.high)]
    return f"{format_number(mean.mean, scale, digits)} [{bounds[0]}, {bounds[1]}]"


def format_number(value: float, scale: float, digits: int) -> str:
    return GAP if math.isnan(value) else f"{scale * value:.{digits}f}"
