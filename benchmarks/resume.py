"""Does a trainer that is killed again and again end with the same weights and trace counts as one that is not?

A server with a real engine and the default model writes traces for some users. First every user's adapter is trained
once without a break, on the very samples of its lease. Then `mindprint train` is started, killed (`kill -9`) at a
random moment of its work, and started again, until it was killed often enough and all is trained: leases, heartbeats,
expiry, checkpoints, uploads and proofs are the real ones. Most moments are drawn from the time since a claim; some from
the time since a training's last step, for canary and upload are short. In the end each version's weights must have the
digest of the unbroken run's, and every accepted trace must stand in exactly one version, its user's; none may be dead.

The server runs without its gate, cohorts, profiles and hold-outs, and without replays, which every lease draws anew; a
trace may be leased as often as it takes. Steps are small, so that there are many of them.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from mindprint import datasets
from mindprint.local.adapter_pages import list_adapters
from mindprint.local.console import Output
from mindprint.local.processes import Child
from mindprint.model_files import DEFAULT, resolve
from mindprint.types import Adapter, Lease, LeaseRequest
from mindprint.types.keys import AdapterKey
from mindprint_demo.trace_accounting import TraceAccounting, account_for_traces
from support.harness import CannotMeasure, JsonFile, Quick, Report, measure
from support.server import Server, run_batch, run_server

NEVER = str(10**6)
SERVER = {"MINDPRINT_MAX_ATTEMPTS": NEVER, "MINDPRINT_COHORT_MIN_TRACES": NEVER}
"""Beside what served.py sets."""
RECIPE = {"epochs": 2, "batch_size": 2}
EVERY = 2
"""Steps between two checkpoints."""
TTL_S = 5.0
"""Shorter than a trainer takes to start: the next one mostly finds the traces waiting again."""
WORKER = {
    "TTL_S": str(TTL_S),
    "POLL_S": "0.5",
    "MIN_TRACES": "1",
    "CHECKPOINT_EVERY_STEPS": str(EVERY),
    "LOG_JSON": "true",
    "LOG_EVERY_S": "1e-6",  # a line for every step
}
LATE_EVERY = 4
"""One of so many moments is drawn from the time since a last step."""
SPAN = 0.4
"""Of an unbroken training's seconds: until then after its claim a trainer is killed."""
LATE_SPAN = 3.0
"""Of an unbroken canary's seconds: until then after the last step."""
PATIENCE_S = 300.0
"""For a trainer to get where it is to be killed, and for the last one to stop."""
POLL_S = 0.02
FRESH, TRAINING, LATE = "before the first checkpoint", "training", "canary or upload"
ARRIVED = "upload that the server finished"
IDLE = "between two trainings"
BESIDES = "goes on without checkpoints"
"""All else that is logged of an adapter is how its lease ended."""

Event = dict[str, Any]


@dataclass(frozen=True)
class UninterruptedRun:
    """One training from its first step to its last, without a kill."""

    lease: Lease
    digest: str
    """Of the weights."""
    steps: int
    seconds: float
    canary_s: float


def main(
    json_file: JsonFile = None,
    quick: Quick = False,
    data: Annotated[Path, typer.Option(envvar="MINDPRINT_DATA", help="The folder that has the records in it.")] = Path(
        "../shared/data"
    ),
    name: Annotated[str, typer.Option("--records", help="Which records: a folder of --data.")] = "unvotes",
    model: Annotated[str, typer.Option(help="A Hugging Face id, a folder, or `default`.")] = DEFAULT,
    kills: Annotated[int, typer.Option(min=0, help="Kills; 0 for the default.")] = 0,
    users: Annotated[int, typer.Option(min=0, help="Users, one training each; 0 for the default.")] = 0,
    engagements: Annotated[int, typer.Option(min=2, help="Engagements of each.")] = 6,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
) -> None:
    wanted, count = kills or (5 if quick else 50), users or (3 if quick else 18)

    async def work(out: Output, report: Report) -> None:
        from mindprint_trainer.process import TORCH_ENVIRONMENT

        people = datasets.load_users(data / name, users=count, engagements=engagements, held_out=0)
        os.environ |= SERVER | TORCH_ENVIRONMENT  # for the processes to come, and before torch is loaded
        async with run_server(model, out) as server:
            report.machine["device"] = (await server.client.server.info()).device
            for person in people:
                await server.client.users.add_engagements(person.user_id, person.engagements)
            await run_batch(server, [person.user_id for person in people], 0, out)
            leases = await read_leases(server, [AdapterKey.user(person.user_id) for person in people])
            unbroken = await asyncio.to_thread(train_uninterrupted, model, leases, out)
            began = time.monotonic()
            runs = await train_with_kills(server, unbroken, wanted, random.Random(seed), out)
            runs.append(await train_without_kills(server, wanted, out))
            traces = [await server.client.traces.get(id) for one in unbroken for id in one.lease.trace_ids]
            adapters = await list_adapters(server.client)
            report_runs(
                report, unbroken, runs, adapters, account_for_traces(traces, adapters), time.monotonic() - began
            )

    measure(__doc__, "about three minutes" if quick else "about a quarter of an hour on two cores", json_file, work)


async def read_leases(server: Server, keys: Sequence[str]) -> list[Lease]:
    """Return what a trainer would be given for each adapter that has accepted traces. Nothing is leased."""
    leases = []
    for key in keys:
        lease = await server.client.leases.claim(LeaseRequest(owner="unbroken", adapter=key))
        if lease is not None:
            await server.client.leases.release(lease.id)
            leases.append(lease)
    if not leases:
        raise CannotMeasure("no trace was accepted")
    return leases


def train_uninterrupted(model: str, leases: Sequence[Lease], out: Output) -> list[UninterruptedRun]:
    from mindprint_trainer.model.base_model import load_base_model
    from mindprint_trainer.settings import Settings
    from mindprint_trainer.training.multi_adapter import Callbacks, train_adapter
    from mindprint_trainer.training.run import StepReport

    settings = Settings.model_validate(RECIPE)
    base, made, told = (
        load_base_model(resolve(model), leases[0].base_digest, settings),
        list[UninterruptedRun](),
        list[float](),
    )

    def tell(step: StepReport) -> None:
        told.append(time.perf_counter())

    with out.bar("unbroken", len(leases)) as bar:
        for lease in leases:
            told.clear()
            began = time.perf_counter()
            trained = train_adapter(base, lease, settings, Callbacks(on_step=tell))
            ended = time.perf_counter()
            made.append(UninterruptedRun(lease, trained.files.digest, len(told), ended - began, ended - told[-1]))
            bar.advance()
        bar.finish(f"{len(made)} trained")
    return made


# --- killing ---


@dataclass(frozen=True)
class KillMoment:
    """When to kill a trainer: so many seconds after it has claimed, or after the first last step of a training."""

    late: bool
    seconds: float


def kill_moments(unbroken: Sequence[UninterruptedRun], dice: random.Random) -> Iterator[KillMoment]:
    whole = statistics.median(one.seconds for one in unbroken)
    canary = statistics.median(one.canary_s for one in unbroken)
    for number in itertools.count(1):
        late = number % LATE_EVERY == 0
        yield KillMoment(late, dice.uniform(0, LATE_SPAN * canary if late else SPAN * whole))


class KillableTrainer:
    """One process of `mindprint train`."""

    def __init__(self, server: Server, number: int) -> None:
        variables = WORKER | {name.upper(): str(value) for name, value in RECIPE.items()}
        variables["WORK_DIR"] = str(server.cluster.folder / "work")
        self.child: Child = server.cluster.start_trainer(f"trainer-{number}", variables)

    def events(self) -> list[Event]:
        """Return the lines that it has logged."""
        lines = self.child.log.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    async def reach(self, late: bool) -> None:
        """Until it has claimed, or made the last step of a training. Raises CannotMeasure."""
        deadline = time.monotonic() + PATIENCE_S
        while not any(is_last(event) if late else event["event"] == "leased" for event in self.events()):
            self.child.check()
            if time.monotonic() > deadline:
                raise CannotMeasure("nothing is left to be trained and killed: raise --users")
            await asyncio.sleep(POLL_S)


def is_last(event: Event) -> bool:
    """Whether a training stands at its last step."""
    done, _, steps = str(event.get("step", "0/1")).partition("/")
    return done == steps


async def train_with_kills(
    server: Server, unbroken: Sequence[UninterruptedRun], wanted: int, dice: random.Random, out: Output
) -> list[list[Event]]:
    """Train with trainers that are killed, and return what each one logged until then."""
    runs: list[list[Event]] = []
    with out.bar("kills", wanted) as bar:
        for moment in itertools.islice(kill_moments(unbroken, dice), wanted):
            trainer = KillableTrainer(server, len(runs))
            await trainer.reach(moment.late)
            await asyncio.sleep(moment.seconds)
            trainer.child.kill()
            runs.append(trainer.events())
            bar.update(len(runs), format_events(runs[-1]))
        bar.finish(f"{len(runs)} trainers")
    return runs


async def train_without_kills(server: Server, number: int, out: Output) -> list[Event]:
    """Lets a last trainer finish all that waits; what it logged. Raises ProcessFailed."""
    client, trainer = server.client, KillableTrainer(server, number)
    with out.bar("the last trainer") as bar:
        while any([(await client.traces.list(state=state, limit=1)).traces for state in ("waiting", "leased")]):
            trainer.child.check()
            bar.update(0, format_events(trainer.events()))
            await asyncio.sleep(1)
        bar.finish("nothing waits any more")
    trainer.child.ask_to_stop()
    trainer.child.wait(time.monotonic() + PATIENCE_S)
    return trainer.events()


def killed_states(events: Sequence[Event]) -> dict[str, str]:
    """Adapters whose leases a trainer held when it logged its last line, and how far each training was."""
    held: dict[str, str] = {}
    for event in events:
        adapter, name = event.get("adapter", ""), event["event"]
        if name == "leased":
            held[adapter] = FRESH
        elif name in ("goes on", "training"):
            saved = name == "goes on" or int(event["step"].partition("/")[0]) >= EVERY
            held[adapter] = LATE if is_last(event) else TRAINING if saved else held[adapter]
        elif adapter and name != BESIDES:
            held.pop(adapter, None)
    return held


def format_events(events: Sequence[Event]) -> str:
    return ", ".join(f"{adapter}: {phase}" for adapter, phase in killed_states(events).items())


# --- what came of it ---


def report_runs(
    report: Report,
    unbroken: Sequence[UninterruptedRun],
    runs: Sequence[Sequence[Event]],
    adapters: Sequence[Adapter],
    books: TraceAccounting,
    seconds: float,
) -> None:
    for phase, times in phases(runs).most_common():
        report.row(killed_in=phase, trainings=times)
    events = [event for run in runs for event in run]
    report.row(
        kills=len(runs) - 1,
        adapters=len(unbroken),
        leases=sum(event["event"] == "leased" for event in events),
        most_attempts=max(event["attempt"] for event in events if event["event"] == "leased"),
        steps=sum(one.steps for one in unbroken),
        steps_computed=sum(event["event"] == "training" for event in events),
        steps_resumed=sum(int(event["step"].partition("/")[0]) for event in events if event["event"] == "goes on"),
        seconds=seconds,
    )
    report.row(accepted=books.accepted, trained=books.trained, dead=books.dead, problems=len(books.problems))
    for problem in books.problems:
        report.row(problem=problem)
    digests = {adapter.key: [version.digest for version in adapter.versions] for adapter in adapters}
    other = [one.lease.adapter for one in unbroken if digests.get(one.lease.adapter) != [f"sha256:{one.digest}"]]
    for key in other:
        report.row(differs=key, versions=len(digests.get(key, [])))
    report.bar("final weights that differ from an unbroken run's", len(other), at_most=0)
    report.bar("traces not in exactly one version", len(books.problems) + books.dead, at_most=0)


def phases(runs: Sequence[Sequence[Event]]) -> Counter[str]:
    """How many trainings were killed where. All runs but the last were killed.

    What was claimed by no later trainer had reached the server, which finishes it alone.
    """
    found: Counter[str] = Counter()
    for number, run in enumerate(runs[:-1], 1):
        again = {event["adapter"] for later in runs[number:] for event in later if event["event"] == "leased"}
        found.update(phase if adapter in again else ARRIVED for adapter, phase in killed_states(run).items())
        found.update([] if killed_states(run) else [IDLE])
    return found


if __name__ == "__main__":
    typer.run(main)
