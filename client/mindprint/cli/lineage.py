"""`mindprint adapters why`: show what a version was trained on, and the findings of the gate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated

import typer

from mindprint import gate_report
from mindprint.cli.batch_stats import duration
from mindprint.cli.compare import place
from mindprint.cli.options import AsJson, Url, VersionName, connect, version_of
from mindprint.cli.output import WIDE, console, print_facts, print_json, print_rows, print_text
from mindprint.types import LearnedFrom, Lineage, Version
from mindprint.types.keys import VersionRef

SHOWN = ("gain", "anchor")
"""Scores with a column of their own: those that decide whether a trace is accepted."""


def why(
    name: VersionName,
    traces: Annotated[int, typer.Option("--traces", "-n", min=1, help="Traces to show at most; --json has all.")] = 50,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Show what a version comes from: its start, its settings, its checks, and its traces."""
    key, number = version_of(name)
    with connect(url) as client:
        lineage = client.adapters.get_lineage(key, number)
    if as_json:
        return print_json(lineage)
    print_facts(_facts(lineage))
    typer.secho("\nthe gate", bold=True)
    columns = ("check", "figure", "bound", "verdict", "detail")
    rows = gate_report.check_rows(gate_report.all_checks(lineage.version))
    print_rows(columns, rows, empty="no gate has evaluated it", fold=True)
    typer.secho("\nlearned from", bold=True)
    _print_traces(lineage, traces)
    learned = {(trace.user_id, trace.engagement_id) for trace in lineage.traces}
    _print_by_user("also learned to answer directly", lineage.fast, besides=learned)
    _print_by_user("learned only the real answer after these rejected traces", lineage.rejected)
    _print_by_user("evaluated on", lineage.held_out)


def state_of(version: Version) -> str:
    """Return the state of a version, and whether it is pinned or has no files."""
    parts = [version.state, *(["pinned"] if version.pinned else []), *([] if version.files else ["files gone"])]
    return ", ".join(parts)


def _facts(lineage: Lineage) -> list[tuple[str, object]]:
    version = lineage.version
    manifest = version.manifest
    samples = ", ".join(f"{count} {kind}" for kind, count in sorted(manifest.samples.items()))
    origin = " from ".join(lineage.ancestors) if lineage.ancestors else version.start
    return [
        ("version", VersionRef.of(version.adapter, version.version)),
        ("state", state_of(version)),
        ("made", version.created_at),
        ("by", f"{manifest.trainer} in {duration(manifest.seconds)}"),
        ("began with", origin or "a fresh adapter"),
        ("live before", f"version {version.parent}" if version.parent else "none"),
        ("samples", f"{samples}; {manifest.tokens} tokens"),
        ("losses", losses_text(manifest.losses)),
        ("settings", _pairs(manifest.settings)),
        ("digest", version.digest),
        ("base", version.base_digest),
    ]


def losses_text(losses: Mapping[str, float]) -> str:
    """Return each loss of a manifest from the first epoch to the last, once where there was one epoch.

    Args:
        losses: Nats a token by name, with `_first` and `_last` behind it.
    """
    names = dict.fromkeys(name.removesuffix("_first").removesuffix("_last") for name in losses)
    found = ((name, losses.get(f"{name}_first", losses.get(name)), losses.get(f"{name}_last")) for name in names)
    return ", ".join(
        f"{name} {first:.4g}" if last in (None, first) else f"{name} {first:.4g} to {last:.4g}"
        for name, first, last in found
        if first is not None
    )


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {f'{value:.4g}' if isinstance(value, float) else value}" for key, value in values.items())


def _print_traces(lineage: Lineage, most: int) -> None:
    wide = console().width >= WIDE
    users = {trace.user_id for trace in lineage.traces}
    names = sorted({name for trace in lineage.traces for name in trace.scores if name in SHOWN}, key=place)
    directly = {(user, engagement) for user, engagements in lineage.fast.items() for engagement in engagements}
    rows = [
        (
            trace.trace_id,
            *([trace.user_id] if len(users) > 1 else []),
            trace.engagement_id,
            "yes" if trace.saw_answer else "no",
            "yes" if (trace.user_id, trace.engagement_id) in directly else "no",
            *(_score(trace, name) for name in names),
            *([_others(trace)] if wide else []),
        )
        for trace in lineage.traces[:most]
    ]
    columns = ["trace", *(["user"] if len(users) > 1 else []), "engagement", "saw answer", "directly too", *names]
    empty = "imported: this server does not know what it learned from" if lineage.imported else "no traces"
    print_rows([*columns, *(["other scores"] if wide else [])], rows, empty=empty)
    if left := len(lineage.traces) - len(rows):
        typer.secho(f"{left} more: --traces {len(lineage.traces)} shows all", dim=True, err=True)


def _score(trace: LearnedFrom, name: str) -> str | None:
    return f"{trace.scores[name]:+.3f}" if name in trace.scores else None


def _others(trace: LearnedFrom) -> str:
    names = sorted((name for name in trace.scores if name not in SHOWN), key=place)
    return ", ".join(f"{name.removesuffix('_logprob').removesuffix('_gap')} {trace.scores[name]:.3f}" for name in names)


def _print_by_user(
    title: str, by_user: Mapping[str, Iterable[str]], *, besides: Iterable[tuple[str, str]] = ()
) -> None:
    """Print a line for each user; nothing if there are none."""
    left = {user: [one for one in ones if (user, one) not in besides] for user, ones in sorted(by_user.items())}
    lines = [f"{user}: {', '.join(ones)}" for user, ones in left.items() if ones]
    if lines:
        print_text(title, "\n".join(lines))
