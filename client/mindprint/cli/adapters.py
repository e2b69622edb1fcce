"""`mindprint adapters`: the commands of this group."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mindprint import gate_report
from mindprint.cli.adapter_import import import_adapter
from mindprint.cli.batch_stats import percent
from mindprint.cli.errors import Fail
from mindprint.cli.lineage import state_of, why
from mindprint.cli.options import After, AsJson, Limit, Url, VersionName, connect, version_of, version_or_none
from mindprint.cli.output import WIDE, console, print_facts, print_json, print_next, print_rows
from mindprint.types import Adapter, SetCanary

app = typer.Typer(no_args_is_help=True)
Key = Annotated[str, typer.Argument(metavar="ADAPTER", help="user/<id> or cohort/<name>.")]
Share = Annotated[float, typer.Option(help="Of the adapter's requests, above 0 and below 1.")]


@app.command("list")
def list_adapters(limit: Limit = 100, after: After = None, as_json: AsJson = False, url: Url = None) -> None:
    """List the adapters and their live versions."""
    with connect(url) as client:
        page = client.adapters.list(limit=limit, after=after)
    if as_json:
        return print_json(page)
    rows = [
        (
            adapter.key,
            adapter.live,
            _canary(adapter),
            len(adapter.versions),
            adapter.versions[-1].created_at if adapter.versions else None,
        )
        for adapter in page.adapters
    ]
    empty = "no adapters yet: `mindprint train` makes them from accepted traces"
    print_rows(("adapter", "live version", "canary", "versions", "newest"), rows, empty=empty)
    print_next(page.next, "mindprint adapters list")


@app.command("show")
def show(key: Key, as_json: AsJson = False, url: Url = None) -> None:
    """Show one adapter with all its versions and the gate's verdict on each."""
    with connect(url) as client:
        adapter = client.adapters.get(key)
    _print(adapter, as_json)


app.command("why")(why)
app.command("import")(import_adapter)


@app.command("promote")
def promote(
    key: Key,
    version: Annotated[int | None, typer.Argument(min=1, help="The version to make live.")] = None,
    base: Annotated[
        bool, typer.Option("--base", help="Take the adapter off: the cohort's adapter or the base model answers.")
    ] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Choose the version that answers."""
    if (version is None) != base:
        raise Fail(f"name either a version or --base: `mindprint adapters show {key}` lists the versions", code=2)
    with connect(url) as client:
        adapter = client.adapters.promote(key, version)
    _print(adapter, as_json)


@app.command("rollback")
def rollback(key: Key, as_json: AsJson = False, url: Url = None) -> None:
    """Go back to the newest earlier version that passed its checks and still has files."""
    with connect(url) as client:
        adapter = client.adapters.rollback(key)
    _print(adapter, as_json)


@app.command("canary")
def set_canary(
    name: Annotated[str, typer.Argument(metavar="VERSION", help="user/<id>@<number>; with --stop, user/<id>.")],
    share: Share = SetCanary.model_fields["share"].default,
    stop: Annotated[bool, typer.Option("--stop", help="The live version answers everything again.")] = False,
    as_json: AsJson = False,
    url: Url = None,
) -> None:
    """Let a version answer a share of the requests. Enough good answers, or `promote`, make it live."""
    if stop and (version := version_or_none(name)):
        raise Fail(f"--stop takes the adapter without a version: {version.key}", code=2)
    key, number = (name, None) if stop else version_of(name)
    with connect(url) as client:
        adapter = client.adapters.set_canary(key, number, share)
    _print(adapter, as_json)


@app.command("pin")
def pin(name: VersionName, as_json: AsJson = False, url: Url = None) -> None:
    """Keep a version's files and, once it is loaded, its slot in the engine."""
    _pin(name, True, as_json, url)


@app.command("unpin")
def unpin(name: VersionName, as_json: AsJson = False, url: Url = None) -> None:
    """End the pin of a version: retention may remove its files again."""
    _pin(name, False, as_json, url)


@app.command("export")
def export(
    name: VersionName,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", file_okay=False, help="Empty, or not there yet.")],
    url: Url = None,
) -> None:
    """Write a version as a plain PEFT folder, which `peft` and `vllm` load without Mindprint."""
    key, number = version_of(name)
    with connect(url) as client:
        written = client.adapters.download(key, number, folder)
    typer.echo(f"{name} written to {written}: {', '.join(sorted(file.name for file in written.iterdir()))}")


def _pin(name: str, pinned: bool, as_json: bool, url: str | None) -> None:
    key, number = version_of(name)
    with connect(url) as client:
        version = client.adapters.pin(key, number, pinned)
    if as_json:
        return print_json(version)
    state = "pinned: its files and its slot in the engine stay" if pinned else "not pinned: its files may go in time"
    typer.echo(f"{name} is {state}")


def _print(adapter: Adapter, as_json: bool) -> None:
    if as_json:
        return print_json(adapter)
    live = f"version {adapter.live}" if adapter.live else "none: the cohort's adapter or the base model answers"
    facts = [("adapter", adapter.key), ("live", live)]
    if adapter.canary:
        facts.append(("canary", f"version {_canary(adapter)} of the requests"))
    print_facts(facts)
    typer.echo()
    wide = console().width >= WIDE
    columns = ("version", "state", "traces", *(("began with", "made") if wide else ()), "gate")
    rows = [
        (
            version.version,
            state_of(version),
            version.traces,
            *((version.start or "fresh", version.created_at) if wide else ()),
            gate_report.summarize(version),
        )
        for version in adapter.versions
    ]
    print_rows(columns, rows, empty="it has no versions", fold=True)


def _canary(adapter: Adapter) -> str | None:
    if adapter.canary is None:
        return None
    return f"{adapter.canary} at {percent(adapter.canary_share)}" if adapter.canary_share else str(adapter.canary)
