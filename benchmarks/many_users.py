"""How many users' adapters are finished in an hour: one by one, or all of them by one trainer together?

All sides train the same leases, from the first step to the packed files with their proof. `a process each` is what a
script for each user does: it starts, loads the base, trains one adapter, ends. The other two load the base once: `one
by one` trains adapter after adapter, and `together` is what a trainer does with all of them leased at once: on a CPU a
lane for each core, with `--lanes 1` and on a GPU all users in shared passes, every sample through its own adapter.
Users are young: each has a fast and a slow sample of a few engagements, which is less than a pass holds. Prompts are
the server's; the thinking is put together from the user's earlier answers, for only its length matters here. The first
users warm up the sides that stay, then all take turns. Tokens are those of all samples, counted in full on every side.
Memory is the most that a process held while its side ran, the base included; on a GPU it is the GPU's, and of a process
each it is always the host's.
"""

from __future__ import annotations

import contextlib
import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mindprint import datasets
from mindprint.local.console import Output
from mindprint.model_files import DEFAULT, resolve
from mindprint.types import Lease, Manifest
from mindprint.types.keys import AdapterKey
from peers.trl_sft import peak_mib
from support.environment import device
from support.exclusive import exclusive_turn
from support.harness import CannotMeasure, JsonFile, Quick, Report, alternate, measure, spread
from support.subprocess_job import run_job
from support.training_leases import DIGEST, lease, samples

if TYPE_CHECKING:
    from mindprint_trainer.model.base_model import Base
    from mindprint_trainer.settings import Settings
    from mindprint_trainer.training.multi_adapter import Callbacks

ALONE, APART, TOGETHER = "a process each", "one by one", "together"
WARM_UP = 2
"""Users."""


@dataclass(frozen=True)
class ManyUsersRun:
    seconds: float
    cpu_s: float
    manifests: list[Manifest]
    peak_mib: float

    @property
    def adapters_per_hour(self) -> float:
        return 3600 * len(self.manifests) / self.seconds

    @property
    def tokens_per_s(self) -> float:
        return sum(manifest.tokens for manifest in self.manifests) / self.seconds


def main(
    json_file: JsonFile = None,
    quick: Quick = False,
    data: Annotated[Path, typer.Option(envvar="MINDPRINT_DATA", help="The folder that has the records in it.")] = Path(
        "../shared/data"
    ),
    name: Annotated[str, typer.Option("--records", help="Which records: a folder of --data.")] = "unvotes",
    model: Annotated[str, typer.Option(help="A Hugging Face id, a folder, or `default`.")] = DEFAULT,
    users: Annotated[int, typer.Option(min=0, help="Users; 0 for the default.")] = 0,
    engagements: Annotated[int, typer.Option(min=1, help="Engagements of each, two samples each.")] = 3,
    rounds: Annotated[int, typer.Option(min=0, help="Rounds; 0 for the default.")] = 0,
    alone: Annotated[bool, typer.Option(help=f"Whether the side of {ALONE} runs too.")] = True,
    lanes: Annotated[int, typer.Option(min=0, help="As the trainer's setting; 0 for its default.")] = 0,
) -> None:
    count, rounds = users or (4 if quick else 16), rounds or (1 if quick else 3)

    async def work(out: Output, report: Report) -> None:
        from mindprint_trainer.process import TORCH_ENVIRONMENT

        os.environ |= TORCH_ENVIRONMENT  # as in the trainer's own process, before torch is loaded
        from transformers import AutoTokenizer

        from mindprint_trainer.model.base_model import load_base_model
        from mindprint_trainer.settings import Settings
        from mindprint_trainer.training.multi_adapter import Callbacks
        from mindprint_trainer.training.run import StepReport

        folder, settings = resolve(model), Settings(parallel_threads=lanes or None)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        people = datasets.load_users(data / name, users=count, engagements=1 + engagements, held_out=0)
        leases = [lease(AdapterKey.user(one.user_id), samples(tokenizer, one, 1), settings.rank) for one in people]
        base = load_base_model(folder, DIGEST, settings)
        report.machine["device"] = device(base.device.type)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(exclusive_turn())
            bar = stack.enter_context(out.bar("runs", (2 + alone) * rounds))
            running = "warm-up"

            def begins(what: str) -> None:
                nonlocal running
                running = what

            def told(step: StepReport) -> None:
                bar.update(bar.done, f"{running}, {step.adapter} {step.step}/{step.steps}")

            def trained(leases: Sequence[Lease], together: bool) -> ManyUsersRun:
                return train_all(base, leases, settings, Callbacks(on_step=told), together=together)

            async def by_processes() -> ManyUsersRun:
                run = await train_each_alone(
                    folder, leases, settings, lambda key: bar.update(bar.done, f"{running}, {key}")
                )
                bar.advance()
                return run

            async def side(together: bool) -> ManyUsersRun:
                run = trained(leases, together)
                bar.advance()
                return run

            for together in (False, True):
                trained(leases[:WARM_UP], together)
            sides = {APART: lambda: side(False), TOGETHER: lambda: side(True)}
            if alone:
                sides = {ALONE: by_processes, **sides}
            runs = await alternate(sides, rounds, warm_up=False, tell=begins)
            bar.finish("measured")
        report_sides(report, runs)

    measure(__doc__, "about three minutes" if quick else "about half an hour on two cores", json_file, work)


async def train_each_alone(
    model: Path, leases: Sequence[Lease], settings: Settings, begins: Callable[[str], None]
) -> ManyUsersRun:
    began, cpu = time.perf_counter(), children_cpu_s()
    manifests, peaks = [], []
    for one in leases:
        begins(one.adapter)
        job = {
            "model": str(model),
            "digest": DIGEST,
            "settings": settings.model_dump(mode="json", exclude={"api_key"}),
            "lease": one.model_dump(mode="json"),
        }
        reply = await run_job("peers.single_adapter", job)
        manifests.append(Manifest.model_validate(reply["manifest"]))
        peaks.append(reply["peak_mib"])
    return ManyUsersRun(time.perf_counter() - began, children_cpu_s() - cpu, manifests, max(peaks))


def children_cpu_s() -> float:
    """CPU seconds of the processes that this one has seen end."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def train_all(
    base: Base, leases: Sequence[Lease], settings: Settings, callbacks: Callbacks, *, together: bool
) -> ManyUsersRun:
    import torch

    from mindprint_trainer.training import parallel
    from mindprint_trainer.training.multi_adapter import TrainedAdapter, TrainingJob

    if on_gpu := base.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(base.device)
    else:
        reset_peak_memory()
    began, cpu = time.perf_counter(), time.process_time()
    jobs = [TrainingJob(one) for one in leases]
    groups = [jobs] if together else [[job] for job in jobs]
    made = {job: result for group in groups for job, result in parallel.train_jobs(base, group, settings, callbacks)}
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    peak = torch.cuda.max_memory_allocated(base.device) / 2**20 if on_gpu else peak_mib()
    manifests = [result.manifest for job in jobs if isinstance(result := made[job], TrainedAdapter)]
    if len(manifests) < len(jobs):
        raise CannotMeasure("some adapters could not be trained")
    return ManyUsersRun(seconds, cpu_s, manifests, peak)


def reset_peak_memory() -> None:
    """From here on the peak of this process's memory is counted anew, where the system can do so."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def report_sides(report: Report, sides: Mapping[str, Sequence[ManyUsersRun]]) -> None:
    apart, together = sides[APART], sides[TOGETHER]
    for side, runs in sides.items():
        report.row(
            side=side,
            users=len(runs[0].manifests),
            samples=sum(sum(one.samples[kind] for kind in ("fast", "slow")) for one in runs[0].manifests),
            tokens=sum(one.tokens for one in runs[0].manifests),
            adapters_per_hour=spread(run.adapters_per_hour for run in runs),
            tokens_per_s=spread(run.tokens_per_s for run in runs),
            cpu_s=spread(run.cpu_s for run in runs),
            peak_mib=spread(run.peak_mib for run in runs),
        )
    both = list(zip(apart[0].manifests, together[0].manifests, strict=True))
    report.row(users=len(both), with_equal_weights=sum(a.weights_sha256 == b.weights_sha256 for a, b in both))
    losses: dict[str, list[tuple[float, float]]] = {}
    for a, b in both:
        for name in a.losses:
            losses.setdefault(name, []).append((a.losses[name], b.losses[name]))
    for name, pairs in losses.items():
        report.row(
            loss=name.replace("_", " "),
            one_by_one=statistics.fmean(a for a, _ in pairs),
            together=statistics.fmean(b for _, b in pairs),
            largest_distance=max(abs(a - b) for a, b in pairs),
        )
    for name, others in sides.items():
        if name == TOGETHER:
            continue
        faster = spread(b.adapters_per_hour / a.adapters_per_hour for a, b in zip(others, together, strict=True))
        report.bar(f"adapters an hour, together over {name}, median of the rounds", faster.median, at_least=1.5)
    apart_by = max(abs(b / a - 1) for pairs in losses.values() for a, b in pairs)
    report.bar("losses, largest relative distance of a user's", apart_by, at_most=0.02)


if __name__ == "__main__":
    typer.run(main)
