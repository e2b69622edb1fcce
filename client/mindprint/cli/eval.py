"""`mindprint eval`: compare kinds of thinking on one's own records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mindprint.cli.errors import Fail, exit_with
from mindprint.cli.options import given
from mindprint.cli.settings_flags import parse_sets, part

app = typer.Typer(no_args_is_help=True)
WHAT = ("an evaluation", "server,trainer,cpu,eval")
Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", exists=True, file_okay=False, help="Folder of an evaluation.")
]


@app.command("run")
def run(
    data: Annotated[Path, typer.Option(exists=True, file_okay=False, help="A folder of records.")],
    out: Annotated[
        Path | None,
        typer.Option(show_default=".mindprint/eval", help="Folder of the evaluation. A second start continues there."),
    ] = None,
    users: Annotated[int, typer.Option(min=1, help="Number of users.")] = 4,
    user: Annotated[
        list[str] | None, typer.Option("--user", "-u", help="Take this user of the data; repeat it.")
    ] = None,
    which: Annotated[
        str,
        typer.Option("--part", help="Which users of the data: `tune` every other one, `report` the rest, or `all`."),
    ] = "all",
    rows: Annotated[int, typer.Option(min=1, help="Later questions to each user.")] = 20,
    engagements: Annotated[int, typer.Option(min=1, help="Past engagements of each user.")] = 20,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds. Each has its own traces and trainings.")] = 1,
    first_seed: Annotated[
        int, typer.Option(min=0, help="Number of the first seed; `eval join` joins several runs.")
    ] = 0,
    group: Annotated[int, typer.Option(min=1, help="Users that share a server.")] = 4,
    pool: Annotated[int, typer.Option(min=0, help="Other users, whose answers train the pooled adapter.")] = 2,
    arms: Annotated[
        str | None, typer.Option(show_default="the method's", help="Names of arms, separated by commas.")
    ] = None,
    min_gain: Annotated[
        float | None, typer.Option(help="Smallest Gain of a selected trace, in place of the server's.")
    ] = None,
    min_anchor: Annotated[
        float | None, typer.Option(help="Smallest Anchor of a selected trace, in place of the server's.")
    ] = None,
    objective: Annotated[
        list[str] | None, typer.Option("--train", metavar="NAME=VALUE", help="A setting of the trainer; repeat it.")
    ] = None,
    server: Annotated[
        list[str] | None, typer.Option("--serve", metavar="NAME=VALUE", help="A setting of the server; repeat it.")
    ] = None,
    general: Annotated[int, typer.Option(min=0, max=32, help="General questions to each adapter.")] = 12,
    embeddings: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="A transformers model, to compare traces with written reasons by its embeddings."
        ),
    ] = None,
    gate: Annotated[bool, typer.Option(help="Let the gate evaluate each version; takes about a minute each.")] = False,
    model: Annotated[
        str, typer.Option("--model", "-m", help="A Hugging Face id, a local folder, or `default`.")
    ] = "default",
) -> None:
    """Compare kinds of thinking on later questions of users, and write the report.

    A second start with the same --out continues: it repeats no question, trace or training.
    """
    known = part("mindprint_eval.arms", *WHAT)
    names = tuple(name.strip() for name in arms.split(",")) if arms else known.METHOD_ARMS
    if unknown := [name for name in names if name not in known.ARMS]:
        raise Fail(f"there is no arm {unknown[0]!r}: the arms are {', '.join(known.ARMS)}", code=2)
    if which not in ("all", "tune", "report"):
        raise Fail(f"--part {which!r} is none of all, tune, report", code=2)
    if embeddings is not None and not (embeddings / "config.json").is_file():
        lacks = "has no config.json" if embeddings.is_dir() else "is no folder"
        raise Fail(f"--embeddings {embeddings} {lacks}: name the folder of a transformers model", code=2)
    options = part("mindprint_eval.config", *WHAT).EvalOptions(
        data=data,
        users=users,
        ids=tuple(user or ()),
        part=which,
        rows=rows,
        engagements=engagements,
        seeds=seeds,
        first_seed=first_seed,
        group=group,
        pool=pool,
        arms=names,
        thresholds=part("mindprint_eval.training_sets", *WHAT).Thresholds(min_gain, min_anchor),
        objective=_variables(objective),
        server=_variables(server),
        general=general,
        embeddings=embeddings,
        gate=gate,
        model=model,
        **given(out=out),
    )
    exit_with(part("mindprint_eval.runner", *WHAT).run_eval(options))


@app.command("report")
def report(folder: Folder) -> None:
    """Build the report of an evaluation again from its tables."""
    typer.echo(f"report: {part('mindprint_eval.report.build', *WHAT).write_report(folder)}")


@app.command("join")
def join(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", exists=True, file_okay=False, help="Folders of evaluations.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the joined evaluation; it is created.")],
) -> None:
    """Join evaluations of different users or seeds, but of the same settings, and write the report of the whole.

    An evaluation of many hours can be spread over days and machines this way.
    """
    evaluation_error = part("mindprint_eval.config", *WHAT).EvaluationError
    try:
        part("mindprint_eval.merge", *WHAT).merge_evaluations(folders, out)
    except evaluation_error as error:
        raise Fail(str(error), code=2) from error
    typer.echo(f"report: {part('mindprint_eval.report.build', *WHAT).write_report(out)}")


def _variables(sets: list[str] | None) -> dict[str, str]:
    """Return `["min-gain=0.1"]` as {"MIN_GAIN": "0.1"}."""
    return {name.upper(): value if isinstance(value, str) else str(value) for name, value in parse_sets(sets).items()}
