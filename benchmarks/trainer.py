"""How fast does Mindprint's trainer train a LoRA adapter, against TRL's `SFTTrainer` with PEFT?

Both train the same adapter from the same first weights on the same rows, in the same order and steps, with the same
objective: the mean over each row's target tokens, averaged over the rows of a step. The rows are of one user's
engagements: each gives one row that answers directly and one that thinks first, with the same beginning. Prompts are
the server's; the thinking is put together from the user's earlier answers, for only its length matters here. Each run
has a process of its own, and the sides take turns. Tokens are those of all rows, counted in full on both sides. Memory
is the most that a process held, and on a GPU the most that it held there.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mindprint import datasets
from mindprint.datasets import UserDataset
from mindprint.local.console import Output
from mindprint.model_files import DEFAULT, resolve
from mindprint.types import Sample
from mindprint.types.keys import AdapterKey
from support.environment import device
from support.exclusive import exclusive_turn
from support.harness import CannotMeasure, JsonFile, Quick, Report, alternate, measure, spread
from support.subprocess_job import run_job
from support.training_leases import EPISODES, lease, samples

if TYPE_CHECKING:
    from mindprint_trainer.settings import Settings

PASS = 4
"""Rows that SFTTrainer computes at once; it sums their gradients up to a step."""


@dataclass(frozen=True)
class TrainerRun:
    tokens_per_s: float
    losses: list[float]
    peak_mib: float


def main(
    json_file: JsonFile = None,
    quick: Quick = False,
    data: Annotated[Path, typer.Option(envvar="MINDPRINT_DATA", help="The folder that has the records in it.")] = Path(
        "../shared/data"
    ),
    model: Annotated[str, typer.Option(help="A Hugging Face id, a folder, or `default`.")] = DEFAULT,
    engagements: Annotated[int, typer.Option(help="Engagements, two rows each; 0 for the default.")] = 0,
    epochs: Annotated[int, typer.Option(help="Times that each row is trained on.")] = 2,
    rounds: Annotated[int, typer.Option(help="Rounds; both sides begin cold, so there is no warm-up.")] = 0,
    on: Annotated[str, typer.Option("--device", help="`cpu`, or `cuda`.")] = "cpu",
) -> None:
    from mindprint_trainer.settings import Settings

    count = engagements or (4 if quick else 8)
    settings = Settings(epochs=epochs, batch_size=8, warmup=0.0, checkpoints=False, compute_dtype="bfloat16", device=on)

    async def work(out: Output, report: Report) -> None:
        folder = resolve(model)
        report.machine["device"] = device(on)
        (person,) = datasets.load_users(data / "unvotes", users=1, engagements=EPISODES + count, held_out=0)
        job, tokens = prepare(folder, settings, person)

        async def side(script: str) -> TrainerRun:
            reply = await run_job(script, job)
            return TrainerRun(tokens / reply["seconds"], reply["losses"], reply["peak_mib"])

        turns = rounds or (1 if quick else 3)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(exclusive_turn())
            bar = stack.enter_context(out.bar("training", 2 * turns))
            runs = await alternate(
                {"SFTTrainer": lambda: side("peers.trl_sft"), "Mindprint": lambda: side("peers.mindprint_trainer")},
                turns,
                warm_up=False,
                tell=lambda note: bar.update(bar.done + 1, note),
            )
            bar.finish("measured")
        report_sides(report, runs["SFTTrainer"], runs["Mindprint"], tokens, len(job["rows"]) // epochs)

    measure(__doc__, "two minutes" if quick else "about seven minutes on two cores", json_file, work)


def report_sides(
    report: Report, theirs: Sequence[TrainerRun], ours: Sequence[TrainerRun], tokens: int, rows: int
) -> None:
    for name, side in (("SFTTrainer", theirs), ("Mindprint", ours)):
        report.row(
            side=name,
            rows=rows,
            tokens=tokens,
            tokens_per_s=spread(run.tokens_per_s for run in side),
            peak_mib=spread(run.peak_mib for run in side),
        )
    apart = [abs(a / b - 1) for a, b in zip(ours[0].losses, theirs[0].losses, strict=True)]
    for step, (a, b, off) in enumerate(zip(ours[0].losses, theirs[0].losses, apart, strict=True), start=1):
        report.row(step=step, loss_sft_trainer=b, loss_mindprint=a, apart=off)
    speed = spread(a.tokens_per_s / b.tokens_per_s for a, b in zip(ours, theirs, strict=True))
    report.bar("trained tokens/s, over SFTTrainer's, median of the rounds", speed.median, at_least=3.0)
    report.bar("losses, largest relative distance in a step", max(apart), at_most=0.02)
    memory = spread(a.peak_mib / b.peak_mib for a, b in zip(ours, theirs, strict=True))
    report.bar("peak memory, over SFTTrainer's", memory.median, at_most=1.0)


def single_target(sample: Sample) -> Sample:
    """Its target in one piece, which is all that SFTTrainer knows."""
    return Sample(
        kind="fast",
        engagement_id=sample.engagement_id,
        prompt=sample.prompt,
        answer=sample.thinking + sample.answer,
    )


def prepare(model: Path, settings: Settings, person: UserDataset) -> tuple[dict[str, Any], int]:
    """Return what both sides are given, and the tokens that they train on."""
    from transformers import AutoTokenizer

    from mindprint_trainer.data.packing import plan_steps
    from mindprint_trainer.data.tokenization import tokenize_all
    from mindprint_trainer.model.base_model import available_cores, tokenize_with

    tokenizer = AutoTokenizer.from_pretrained(model)
    given = lease(
        AdapterKey.user("benchmark"),
        [single_target(one) for one in samples(tokenizer, person, EPISODES)],
        settings.rank,
    )
    sequences, dropped = tokenize_all(given.samples, partial(tokenize_with, tokenizer), tokenizer.eos_token_id, 2048)
    if dropped:
        raise CannotMeasure(f"{dropped} rows are too long")
    steps = plan_steps(sequences, settings.epochs, settings.batch_size, settings.seed, settings.schedule)
    if any(len(step.sequences) != settings.batch_size for step in steps):
        raise CannotMeasure("the steps are not of one size: take another number of engagements")
    # In a step, rows of like length stand together: SFTTrainer pads each pass to its longest row.
    order = [number for step in steps for number in sorted(step.sequences, key=lambda n: len(sequences[n].ids))]
    job = {
        "model": str(model),
        "device": settings.device,
        "dtype": "bfloat16",
        "threads": settings.threads or available_cores(),
        "rank": settings.rank,
        "alpha": settings.alpha,
        "target_modules": given.limits.target_modules,
        "seed": settings.seed,
        "rows": [{"ids": sequences[n].ids, "prompt": sequences[n].prompt_length} for n in order],
        "sequences_a_pass": PASS,
        "batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "settings": settings.model_dump(mode="json", exclude={"owner", "api_key"}),
        "lease": given.model_dump(mode="json"),
    }
    return job, sum(len(sequences[number].ids) for number in order)


if __name__ == "__main__":
    typer.run(main)
