"""Which architectures go through every step, from load to an answer with a trained adapter?

For each architecture it makes a tiny model with random weights, a tokenizer and a chat template of its own. Then it
starts a server on it, writes traces, trains, uploads, checks, chats, and compares the answers with those of PEFT. The
text means nothing.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from mindprint.local.console import Output
from support.architecture_page import STEPS
from support.harness import CannotMeasure, JsonFile, Quick, Report, measure

TESTS = Path(__file__).resolve().parent.parent / "tests"
QUICK = ("gemma2",)


async def try_architecture(name: str, report: Report) -> bool:
    """Add the row of one architecture, and return whether what came of it was wanted."""
    from architecture_steps import run_steps
    from architectures import ARCHITECTURES

    architecture = ARCHITECTURES[name]
    with tempfile.TemporaryDirectory(prefix="mindprint-architecture-") as folder:
        results = await run_steps(architecture, Path(folder))
    figures = {key: value for result in results.values() for key, value in result.figures.items()}
    report.row(
        architecture=architecture.title,
        model_type=architecture.model_type,
        chat_format=architecture.chat,
        **{step: results[step].outcome for step in STEPS},
        forward_nats=figures.get("forward_nats"),
        parity_nats=figures.get("against_trainer"),
        adapter_nats=figures.get("adapter_nats"),
        shift_nats=figures.get("shift_nats"),
        why=next((result.why for result in results.values() if result.why), ""),
    )
    outcomes = {result.outcome for result in results.values()}
    return "refused" in outcomes if architecture.refusal else outcomes == {"yes"}


def main(
    json_file: JsonFile = None,
    quick: Quick = False,
    only: Annotated[list[str] | None, typer.Option(help="Try this, such as qwen3_moe; repeat it.")] = None,
) -> None:
    sys.path.insert(0, str(TESTS / "support"))
    from architectures import ARCHITECTURES

    names = tuple(only or (QUICK if quick else ARCHITECTURES))

    async def work(out: Output, report: Report) -> None:
        if unknown := set(names) - set(ARCHITECTURES):
            raise CannotMeasure(
                f"no architecture {', '.join(sorted(unknown))}: name some of {', '.join(ARCHITECTURES)}"
            )
        wrong = 0
        with out.bar("architectures", len(names)) as bar:
            for number, name in enumerate(names):
                bar.update(number, name)
                wrong += not await try_architecture(name, report)
            bar.finish(f"{wrong} not as wanted")
        report.bar("architectures that neither work nor are refused as they should be", wrong, at_most=0)

    measure(__doc__, "two minutes" if quick else "about half an hour", json_file, work)


if __name__ == "__main__":
    typer.run(main)
