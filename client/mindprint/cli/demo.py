"""`mindprint demo`, `demo-data` and `doctor`: what needs no server that runs already."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mindprint.cli.options import given
from mindprint.cli.processes import with_code
from mindprint.cli.settings_flags import part

WHAT = ("the demo", "server,trainer,cpu,demo")
Seed = Annotated[int, typer.Option(help="The same users again for the same seed.")]


def add_to(app: typer.Typer) -> None:
    app.command("demo")(demo)
    app.command("demo-data")(demo_data)
    app.command("doctor")(doctor)


def demo(
    data: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="A folder of records; without it users are made from the seed."
        ),
    ] = None,
    users: Annotated[int, typer.Option(min=1, help="How many users.")] = 4,
    user: Annotated[list[str] | None, typer.Option("--user", "-u", help="This user of the data; repeat it.")] = None,
    engagements: Annotated[int, typer.Option(min=1, help="Past engagements a user.")] = 24,
    held_out: Annotated[int, typer.Option(min=1, help="Later questions a user, to score on.")] = 12,
    seed: Seed = 0,
    model: Annotated[
        str, typer.Option("--model", "-m", help="A Hugging Face id, a local folder, or `default`.")
    ] = "default",
    work_dir: Annotated[Path | None, typer.Option(show_default=".mindprint/demo", help="Where the runs lie.")] = None,
    thinking: Annotated[bool, typer.Option(help="Also compare the answers given after thinking.")] = True,
    kill_trainer: Annotated[
        bool, typer.Option("--kill-trainer", help="Kill the trainer in the middle and start it again.")
    ] = False,
    collapse: Annotated[
        bool, typer.Option("--collapse", help="Then train one user by answers only, and see the gate refuse it.")
    ] = False,
    transcript: Annotated[Path | None, typer.Option(help="Write the whole output here too.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results here.")] = None,
) -> None:
    """The whole loop once, for real: engagements, traces, an adapter a user, and a table of what it changed."""
    options = part("mindprint_demo.options", *WHAT).DemoOptions(
        data=data,
        users=users,
        ids=tuple(user or ()),
        engagements=engagements,
        held_out=held_out,
        seed=seed,
        model=model,
        thinking=thinking,
        kill_trainer=kill_trainer,
        collapse=collapse,
        transcript=transcript,
        json_file=json_file,
        **given(work_dir=work_dir),
    )
    with_code(part("mindprint_demo.run", *WHAT).run_demo(options))


def demo_data(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", file_okay=False, help="Where to write.")],
    users: Annotated[int, typer.Option(min=1, help="How many users.")] = 4,
    engagements: Annotated[int, typer.Option(min=1, help="Past engagements a user.")] = 24,
    held_out: Annotated[int, typer.Option(min=1, help="Later questions a user.")] = 16,
    seed: Seed = 0,
) -> None:
    """Make users with hidden preferences, their engagements, and later questions to score on."""
    part("mindprint_demo.synthetic", *WHAT).write_dataset(folder, users, engagements, held_out, seed)
    typer.echo(f"{users} users with {engagements} engagements and {held_out} later questions each: {folder}")
    typer.echo(f"`mindprint demo --data {folder}` runs the loop on them")


def doctor() -> None:
    """What is installed, which device and engine will be used, what is missing and how to get it."""
    from mindprint.doctor import report

    with_code(report())
