"""The demo's tables of what the gate found, and its words on the adapter that was collapsed on purpose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from mindprint import gate_report
from mindprint.types import Adapter, Version
from mindprint.types.keys import VersionRef
from mindprint_demo.results import CollapseResult


def list_versions(adapters: Iterable[Adapter]) -> list[Version]:
    return [version for adapter in adapters for version in adapter.versions]


def refused_versions(adapters: Iterable[Adapter]) -> list[Version]:
    return [version for version in list_versions(adapters) if version.state == "refused"]


def version_name(version: Version) -> str:
    return VersionRef.of(version.adapter, version.version)


def describe_refusal(version: Version) -> str:
    """Return a refused version and its failed checks, such as `user/anna@2: collapse, general`."""
    names = ", ".join(name.replace("_", " ") for name in gate_report.failed(version))
    return f"{version_name(version)}: {names or 'no check failed'}"


def checks_table(title: str, versions: Iterable[Version]) -> Table:
    """Return a section for each version: figure, bound and verdict of every check."""
    made = Table(title=title, title_justify="left")
    for column in ("version", "state", "check", "figure", "bound", "verdict", "detail"):
        right = column in ("figure", "bound")
        made.add_column(column, justify="right" if right else "left", no_wrap=column != "detail", overflow="fold")
    for version in versions:
        first = [version_name(version), version.state]
        for row in gate_report.check_rows(gate_report.all_checks(version)) or [("none", None, None, "not judged", "")]:
            # As text: a detail is no markup.
            made.add_row(*map(Text, first), *(Text(cell or "") for cell in row))
            first = ["", ""]
        made.add_section()
    return made


def collapse_tables(collapse: CollapseResult) -> Iterator[RenderableType]:
    """Return the gate's table of the collapsed version, and what happened around it."""
    if collapse.version is not None:
        yield checks_table(f"{collapse.user_id}, trained by answers only", [collapse.version])
    yield Text(describe_collapse(collapse) + "\n")


def describe_collapse(collapse: CollapseResult) -> str:
    live = version_name(collapse.live)
    asked = collapse.answered + len(collapse.failures)
    told = [f"Meanwhile {live} answered {collapse.answered} of {asked} questions."]
    if (version := collapse.version) is None:
        return f"No version was made by answers only: {collapse.failed}. {told[0]}"
    if version.state == "refused":
        told.insert(0, f"The gate refused {describe_refusal(version)}.")
        if collapse.live_after == collapse.live.version:
            told.append(f"{live} stayed live.")
    else:
        told.insert(0, f"THE GATE LET {version_name(version)} PASS.")
    if collapse.later is not None:
        told.append(
            f"Of the same traces the ordinary trainer made {version_name(collapse.later)}: {collapse.later.state}."
        )
    return " ".join(told)


def checks_json(version: Version) -> dict[str, Any]:
    return {
        "version": version_name(version),
        "state": version.state,
        "checks": [check.model_dump(mode="json") for check in gate_report.all_checks(version)],
    }


def collapse_json(collapse: CollapseResult | None) -> dict[str, Any] | None:
    """Without the manifests, which hold log-probabilities of the traces' tokens."""
    if collapse is None:
        return None
    return {
        "user": collapse.user_id,
        "live": version_name(collapse.live),
        "live_after": collapse.live_after,
        "answered": collapse.answered,
        "failures": collapse.failures,
        "gate": checks_json(collapse.version) if collapse.version else None,
        "later": checks_json(collapse.later) if collapse.later else None,
        "problems": collapse.problems(),
    }
