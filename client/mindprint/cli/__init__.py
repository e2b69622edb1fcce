"""The `mindprint` command: a module for each command or noun; they share `options`, `output` and `errors`."""

from __future__ import annotations

from typing import Annotated

import typer

from mindprint import __version__
from mindprint.cli import (
    adapters,
    audit,
    backup,
    batches,
    chat,
    cohorts,
    demo,
    doctor,
    erasures,
    eval,
    keys,
    serve,
    traces,
    train,
    users,
)
from mindprint.cli.errors import OneLine

app = typer.Typer(
    name="mindprint",
    cls=OneLine,
    help="Gives every user of a language model a way of thinking of their own.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # locals hold passwords and users' texts
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mindprint {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


app.command("serve")(serve.serve)
app.command("train")(train.train)
app.command("demo")(demo.demo)
app.command("demo-data")(demo.demo_data)
app.command("doctor")(doctor.doctor)
app.command("backup")(backup.backup)
app.command("restore")(backup.restore)
app.add_typer(users.app, name="users", help="Users, their engagements and profiles.")
app.add_typer(erasures.app, name="erasures", help="Erasures of users' data: list, show, verify a receipt.")
app.add_typer(traces.app, name="traces", help="Thinking traces: list, show, write one now, export, import.")
app.add_typer(batches.app, name="batches", help="Durable jobs that write traces for many engagements.")
app.add_typer(adapters.app, name="adapters", help="Adapters and their versions: why, promote, canary, export.")
app.add_typer(cohorts.app, name="cohorts", help="Users who share an adapter until they have their own.")
app.add_typer(keys.app, name="keys", help="API keys: who may call the server, and for what.")
app.add_typer(audit.app, name="audit", help="The audit log: who changed what.")
app.add_typer(eval.app, name="eval", help="The evidence, on one's own records: run it, report it.")
app.command("chat")(chat.chat)

__all__ = ["app"]
