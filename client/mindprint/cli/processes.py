"""`mindprint serve` and `mindprint train`: the two long-running processes, from flags to settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mindprint.cli.options import given
from mindprint.cli.settings_flags import as_toml, build, parse_sets, part
from mindprint.transport import DEFAULT_URL

Sets = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any other setting; repeat it.")]
PrintConfig = Annotated[bool, typer.Option("--print-config", help="Print the settings as TOML and stop.")]


def add_to(app: typer.Typer) -> None:
    app.command("serve")(serve)
    app.command("train")(train)


def serve(
    host: Annotated[str | None, typer.Option(show_default="127.0.0.1", help="The address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(show_default="8300", help="0 for any free one.")] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", show_default="default", help="A Hugging Face id, a local folder, or `default`."),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(show_default=".mindprint/server", help="Where the store and the adapters lie.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, show_default="mindprint.toml, if it is there", help="A TOML file."),
    ] = None,
    sets: Sets = None,
    print_config: PrintConfig = False,
) -> None:
    """Run the server: vLLM, the store, the HTTP API.

    Flags win over the environment (MINDPRINT_...) and the file.
    """
    what = ("the server", "server,cpu")
    wanted = {**parse_sets(sets), **given(host=host, port=port, model=model, data_dir=data_dir)}
    settings = build(part("mindprint_server.settings", *what).Settings, wanted, config=config, command="serve")
    if print_config:
        return typer.echo(as_toml(settings), nl=False)
    with_code(part("mindprint_server.process", *what).run(settings))


def train(
    url: Annotated[
        str | None, typer.Option("--url", show_default=DEFAULT_URL, help="Where the server listens.")
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="End when nothing is left to train, instead of going on for ever.")
    ] = False,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            "--adapter",
            "-a",
            help="Only this one, user/<id> or cohort/<name>; repeat it; without it, whichever waits most. A cohort "
            "that is named is trained without waiting for the server's cohort_min_traces: the trainer's min_traces, "
            "which `--set min_traces=N` sets, is the least.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would train on, and train nothing.")] = False,
    model: Annotated[
        str | None, typer.Option("--model", "-m", show_default="the server's", help="The base model's files.")
    ] = None,
    rank: Annotated[int | None, typer.Option(help="Of the LoRA adapters.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the traces.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the optimizer.")] = None,
    seed: Annotated[int | None, typer.Option(help="For the same adapter again.")] = None,
    sets: Sets = None,
    print_config: PrintConfig = False,
) -> None:
    """Run a trainer: lease accepted traces, train an adapter on them, hand it to the server.

    Flags win over the environment (MINDPRINT_TRAIN_...).
    """
    what = ("the trainer", "trainer,cpu")
    flags = given(
        server=url,
        once=once or None,
        adapter=adapter or None,
        dry_run=dry_run or None,
        model=model,
        rank=rank,
        epochs=epochs,
        learning_rate=learning_rate,
        seed=seed,
    )
    wanted = {**parse_sets(sets), **flags}
    settings = build(part("mindprint_trainer.settings", *what).Settings, wanted, command="train")
    if print_config:
        return typer.echo(as_toml(settings), nl=False)
    with_code(part("mindprint_trainer.process", *what).run(settings))


def with_code(code: int | None) -> None:
    if code:
        raise typer.Exit(code)
