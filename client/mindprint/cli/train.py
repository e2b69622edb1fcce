"""`mindprint train`: run a trainer."""

from __future__ import annotations

from typing import Annotated

import typer

from mindprint.cli.errors import exit_with
from mindprint.cli.options import PrintConfig, Sets, given
from mindprint.cli.settings_flags import as_toml, build, parse_sets, part
from mindprint.transport import DEFAULT_URL


def train(
    url: Annotated[str | None, typer.Option("--url", show_default=DEFAULT_URL, help="Address of the server.")] = None,
    once: Annotated[
        bool, typer.Option("--once", help="End when nothing is left to train, instead of waiting for more.")
    ] = False,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            "--adapter",
            "-a",
            help="Train only this adapter, user/<id> or cohort/<name>; repeat it. Without it, the adapter with the "
            "most waiting traces is next. A named cohort is trained from the trainer's min_traces on, not from the "
            "server's cohort_min_traces.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be trained on, and train nothing.")
    ] = False,
    model: Annotated[
        str | None, typer.Option("--model", "-m", show_default="the server's", help="Folder or id of the base model.")
    ] = None,
    rank: Annotated[int | None, typer.Option(help="Rank of the LoRA adapters.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the traces.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Learning rate of the optimizer.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed: the same one gives the same adapter.")] = None,
    sets: Sets = None,
    print_config: PrintConfig = False,
) -> None:
    """Run a trainer: lease accepted traces, train an adapter on them, upload it to the server.

    A flag overrides the environment (MINDPRINT_TRAIN_...).
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
    exit_with(part("mindprint_trainer.process", *what).run(settings))
