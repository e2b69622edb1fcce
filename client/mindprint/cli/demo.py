"""`mindprint demo` and `mindprint demo-data`: the whole loop on this machine, and data for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mindprint.cli.errors import exit_with
from mindprint.cli.options import given
from mindprint.cli.settings_flags import part

WHAT = ("the demo", "server,trainer,cpu,demo")
Seed = Annotated[int, typer.Option(help="The same seed makes the same users.")]


def demo(
    data: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="A folder of records. Without it, users are made from the seed."
        ),
    ] = None,
    users: Annotated[int, typer.Option(min=1, help="Number of users.")] = 4,
    user: Annotated[
        list[str] | None, typer.Option("--user", "-u", help="Take this user of the data; repeat it.")
    ] = None,
    engagements: Annotated[int, typer.Option(min=1, help="Past engagements of each user.")] = 24,
    held_out: Annotated[int, typer.Option(min=1, help="Later questions to each user, for the scores.")] = 12,
    seed: Seed = 0,
    model: Annotated[
        str, typer.Option("--model", "-m", help="A Hugging Face id, a local folder, or `default`.")
    ] = "default",
    work_dir: Annotated[Path | None, typer.Option(show_default=".mindprint/demo", help="Folder of the runs.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the newest run, which was stopped. Give the same options.")
    ] = False,
    thinking: Annotated[bool, typer.Option(help="Also compare the answers after thinking.")] = True,
    kill_trainer: Annotated[
        bool, typer.Option("--kill-trainer", help="Kill the trainer in the middle and start it again.")
    ] = False,
    collapse: Annotated[
        bool, typer.Option("--collapse", help="Then train one user on answers only, for the gate to refuse.")
    ] = False,
    transcript: Annotated[Path | None, typer.Option(help="Also write the whole output to this file.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results to this file.")] = None,
) -> None:
    """Run the whole loop once: engagements, traces, an adapter for each user, and a table of what it changed."""
    options = part("mindprint_demo.options", *WHAT).DemoOptions(
        data=data,
        users=users,
        ids=tuple(user or ()),
        engagements=engagements,
        held_out=held_out,
        seed=seed,
        model=model,
        resume=resume,
        thinking=thinking,
        kill_trainer=kill_trainer,
        collapse=collapse,
        transcript=transcript,
        json_file=json_file,
        **given(work_dir=work_dir),
    )
    exit_with(part("mindprint_demo.run", *WHAT).run_demo(options))


def demo_data(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", file_okay=False, help="Where to write.")],
    users: Annotated[int, typer.Option(min=1, help="Number of users.")] = 4,
    engagements: Annotated[int, typer.Option(min=1, help="Past engagements of each user.")] = 24,
    held_out: Annotated[int, typer.Option(min=1, help="Later questions to each user.")] = 16,
    seed: Seed = 0,
) -> None:
    """Make users with hidden preferences, their engagements, and later questions to score on."""
    part("mindprint_demo.synthetic", *WHAT).write_dataset(folder, users, engagements, held_out, seed)
    typer.echo(f"{users} users with {engagements} engagements and {held_out} later questions each: {folder}")
    typer.echo(f"`mindprint demo --data {folder}` runs the loop on them")
