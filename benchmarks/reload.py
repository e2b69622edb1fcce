"""Do answers go on undisturbed while new versions of adapters go live, and how soon does a new trace speak?

Chat requests come at a steady rate, whatever becomes of those before them, for the adapters of some users in turn. In
every other phase versions are published meanwhile, as a trainer does it: claimed, uploaded, proved on the engine, taken
live. They are made beforehand and without training: each writes a word of its own and nothing else (marks.py), so that
an answer shows which version wrote each of its tokens. What they cannot show is a cached prompt of another version.
Times to the first token count from when a request was due. Then, without that load, a real trainer is started for a
new user as soon as a batch has written traces for that user, and it is told what happens when until the new version
answers; the start of the trainer's process is in the time until it has claimed.

The server runs without its gate, which would rightly refuse adapters that write one word; with `--gate` it examines
them all the same, and lets everything pass. It runs without hold-outs, replays and profiles, and with verdicts that
accept every trace with the right answer, for what counts here is to have enough.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from mindprint import datasets
from mindprint.local.console import Output
from mindprint.model_files import DEFAULT
from support.chat_load import ChatLoad
from support.constant_adapters import build_constant_adapters
from support.exclusive import exclusive_turn
from support.harness import JsonFile, Quick, Report, measure
from support.load_phases import PhaseSizes, under_load
from support.publisher import Publisher, write_traces
from support.reload_report import report_phases, report_time_to_live
from support.server import TRIES, run_server
from support.time_to_live import measure_time_to_live

QUESTIONS = 64
"""Of each user; then they come again."""
FULL = PhaseSizes(phases=4, seconds=75, versions=10, users=8, each=12, stories=3)
SMALL = PhaseSizes(phases=1, seconds=30, versions=3, users=4, each=5, stories=1)


def main(
    json_file: JsonFile = None,
    quick: Quick = False,
    data: Annotated[Path, typer.Option(envvar="MINDPRINT_DATA", help="The folder that has the records in it.")] = Path(
        "../shared/data"
    ),
    name: Annotated[str, typer.Option("--records", help="Which records: a folder of --data.")] = "unvotes",
    rate: Annotated[float, typer.Option(min=0.01, help="Chat requests a second.")] = 0.6,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of each answer.")] = 16,
    seconds: Annotated[float, typer.Option(help="Length of a phase; 0 for the default.")] = 0,
    versions: Annotated[int, typer.Option(help="Versions published in a phase; 0 for the default.")] = 0,
    stories: Annotated[int, typer.Option(help="New users that a trainer is started for; 0 for the default.")] = 0,
    gate: Annotated[bool, typer.Option("--gate", help="Versions are examined before they are live.")] = False,
    model: Annotated[str, typer.Option(help="A Hugging Face id, a folder, or `default`.")] = DEFAULT,
) -> None:
    sizes = SMALL if quick else FULL
    sizes = replace(
        sizes,
        seconds=seconds or sizes.seconds,
        versions=versions or sizes.versions,
        stories=stories or sizes.stories,
    )

    async def work(out: Output, report: Report) -> None:
        people = datasets.load_users(
            data / name, users=sizes.users + sizes.stories, engagements=TRIES * sizes.each, held_out=QUESTIONS
        )
        chatting, fresh = people[: sizes.users], people[sizes.users :]
        with out.bar("marked versions", sizes.published) as bar:
            marked = await asyncio.to_thread(build_constant_adapters, model, sizes.published, bar.update)
            bar.finish(f"{len(marked)} made")
        async with run_server(model, out, gate=gate) as server, exclusive_turn():
            report.machine["device"] = (await server.client.server.info()).device
            whose = await write_traces(server, chatting, sizes.each, sizes.published, out)
            publisher = Publisher(server.client, deque(marked), whose)
            load = ChatLoad(server.http, chatting, rate, tokens)
            phases = await under_load(server, load, publisher, sizes, out)
            report_phases(report, phases, publisher.published, tokens)
            report_time_to_live(
                report, [await measure_time_to_live(server, person, sizes.each, out) for person in fresh]
            )

    measure(__doc__, "about five minutes" if quick else "about twenty minutes on two cores", json_file, work)


if __name__ == "__main__":
    typer.run(main)
