"""How many engagements get an accepted trace in a second, against the script that one would write?

The script: an async client on vLLM's own server, four candidates for every engagement in one request, then the same
verdicts (the server's own code, its scores asked of that server). Mindprint: a batch, with default settings. Equal
engine flags, sampling, prompts and verdicts; the sides take turns, each round on engagements of its own. An ablation
adds Mindprint's parts one after the other, and a table by users shows what their acceptance rate has to do with it.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mindprint.local.console import Output
from mindprint.local.processes import Processes
from mindprint.types import BatchRequest
from peers import vllm_http
from support.engine import run_engine
from support.exclusive import exclusive_turn
from support.harness import CannotMeasure, JsonFile, Quick, Report, measure, silent_output, spread
from support.workload import PROFILE_NEVER, PreparedQuestion, Slice, Workbench, slices, workbench

if TYPE_CHECKING:
    from mindprint_server.engine.vllm import VllmEngine
    from mindprint_server.settings import Settings
    from mindprint_server.verdicts.context import ContextBuilder

WARM_UP = 4
CANDIDATES = 4
RESAMPLES = 2000

FOUR_EACH: dict[str, Any] = {
    "candidates": CANDIDATES,
    "early_stop_margin_nats": None,
    "early_stop_score_margin": None,
    "min_answer_frequency": 0,
}
PARTS: dict[str, dict[str, Any]] = {
    "scheduling": {"candidates_per_round": CANDIDATES, "cancel_siblings_on_accept": False, **FOUR_EACH, "hints": False},
    "+ on demand": {**FOUR_EACH, "hints": False},
    "+ early ends": {"hints": False},
    "+ hints": {"hints": True},
}
"""Settings of Mindprint, each row with one part more: the planner alone writes always four candidates, and early
ends are three at most and precedents as well."""


@dataclass
class YieldRun:
    """One side on one slice."""

    seconds: float = 0.0
    engagements: int = 0
    tokens: int = 0
    written: Counter[str] = field(default_factory=Counter)
    """Candidates by user, rounds apart."""
    accepted: Counter[str] = field(default_factory=Counter)
    """Accepted candidates by user."""
    won: Counter[str] = field(default_factory=Counter)
    """Engagements with an accepted trace, by user."""
    scores: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Of accepted traces, by name."""
    hinted: int = 0

    @property
    def per_second(self) -> float:
        return self.won.total() / self.seconds


def main(
    json_file: JsonFile = None,
    quick: Quick = False,
    data: Annotated[Path, typer.Option(envvar="MINDPRINT_DATA", help="The folder that has the records in it.")] = Path(
        "../shared/data"
    ),
    records: Annotated[str, typer.Option(help="Which records: folders of --data.")] = "unvotes,convarg",
    users: Annotated[int, typer.Option(help="Users in a round; 0 for the default.")] = 0,
    each: Annotated[int, typer.Option(help="Engagements of each user in a round; 0 for the default.")] = 0,
    rounds: Annotated[int, typer.Option(help="Rounds after the warm-up.")] = 1,
    ablation: Annotated[int, typer.Option(help="Of these, rounds in which the parts are added one by one.")] = 0,
    model: Annotated[str, typer.Option(help="A folder, or `default`.")] = "default",
) -> None:
    from mindprint_server.settings import Settings

    users, each = users or (3 if quick else 8), each or (5 if quick else 20)

    async def work(out: Output, report: Report) -> None:
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mindprint-yields-")))
            settings = Settings(model=model, profile_every=PROFILE_NEVER, holdout_share=0, data_dir=folder / "server")
            processes = stack.enter_context(Processes(folder))
            with out.bar("two engines") as bar:
                bar.update(0, "starting")
                http, engine = await asyncio.gather(
                    stack.enter_async_context(vllm_http.run_vllm_server(processes, settings, silent_output())),
                    stack.enter_async_context(run_engine(settings, silent_output(), report)),
                )
                bar.finish("ready")
            bench = await stack.enter_async_context(workbench(settings, http))
            await stack.enter_async_context(exclusive_turn())
            for name in records.split(","):
                parts = slices(data / name, users=users, each=each, rounds=rounds, warm_up=WARM_UP)
                sides = YieldSides(settings, bench, http, engine)
                await compare(out, report, name, parts, sides, ablation)

    measure(__doc__, "four minutes" if quick else "about ten minutes on two cores", json_file, work)


async def compare(
    out: Output, report: Report, records: str, parts: Sequence[Slice], sides: YieldSides, ablation: int
) -> None:
    runs: dict[str, list[YieldRun]] = defaultdict(list)
    with out.bar(records, sum(2 + (len(PARTS) if 0 < turn <= ablation else 0) for turn in range(len(parts)))) as bar:
        for turn, part in enumerate(parts):
            posed = await sides.bench.pose(part)
            names = ["script", "mindprint", *(PARTS if 0 < turn <= ablation else ())]
            for name in names[:: -1 if turn % 2 else 1]:
                bar.update(bar.done, f"{name}, round {turn} of {len(parts) - 1}" if turn else f"{name}, warm-up")
                run = await (sides.script(posed) if name == "script" else sides.mindprint(part, PARTS.get(name, {})))
                bar.advance()
                if turn:
                    runs[name].append(run)
        bar.finish("measured")
    report_records(report, records, runs)


def report_records(report: Report, records: str, runs: Mapping[str, Sequence[YieldRun]]) -> None:
    for name, side in runs.items():
        against = [run.per_second / base.per_second for run, base in zip(side, runs["script"], strict=False)]
        report.row(
            records=records,
            side=name,
            accepted_per_s=spread(run.per_second for run in side),
            against_script=spread(against),
            engagements=sum(run.engagements for run in side),
            won=sum(run.won.total() for run in side),
            candidates_each=sum(run.written.total() for run in side) / sum(run.engagements for run in side),
            accepted_rate=sum(run.accepted.total() for run in side) / sum(run.written.total() for run in side),
            hinted=sum(run.hinted for run in side),
            gain=mean(side, "gain"),
            anchor=mean(side, "anchor"),
            tokens_per_s=spread(run.tokens / run.seconds for run in side),
        )
    report_users(report, records, runs["script"], runs["mindprint"])
    ours, theirs = runs["mindprint"], runs["script"]
    ratio = spread(a.per_second / b.per_second for a, b in zip(ours, theirs, strict=True))
    report.bar(f"{records}: engagements with an accepted trace a second, over the script's", ratio.median, at_least=1.5)
    for score in ("gain", "anchor"):
        upper = difference(ours, theirs, score)
        report.bar(f"{records}: mean {score}, ours less the script's, upper 95 % bound", upper, at_least=0.0)


def mean(side: Sequence[YieldRun], score: str) -> float | None:
    values = [value for run in side for value in run.scores[score]]
    return statistics.fmean(values) if values else None


def difference(ours: Sequence[YieldRun], theirs: Sequence[YieldRun], score: str) -> float:
    """Upper end of the 95 % interval of the difference of means: below zero, ours is lower beyond chance."""
    a = [value for run in ours for value in run.scores[score]]
    b = [value for run in theirs for value in run.scores[score]]
    if not a or not b:
        raise CannotMeasure(f"no accepted trace has a {score}: take more engagements")
    draw = random.Random(0)
    means = sorted(
        statistics.fmean(draw.choices(a, k=len(a))) - statistics.fmean(draw.choices(b, k=len(b)))
        for _ in range(RESAMPLES)
    )
    return means[int(0.975 * RESAMPLES)]


def report_users(report: Report, records: str, theirs: Sequence[YieldRun], ours: Sequence[YieldRun]) -> None:
    """Users in three groups by the script's acceptance rate: what each won engagement cost in candidates."""
    written, accepted = _by_user(theirs, "written"), _by_user(theirs, "accepted")
    users = sorted(written, key=lambda user: accepted[user] / written[user])
    third = -(-len(users) // 3)
    for group in (users[start : start + third] for start in range(0, len(users), third)):

        def cost(side: Sequence[YieldRun], group: list[str] = group) -> float | None:
            won = sum(_by_user(side, "won")[user] for user in group)
            return sum(_by_user(side, "written")[user] for user in group) / won if won else None

        script, mindprint = cost(theirs), cost(ours)
        report.row(
            records=records,
            users=len(group),
            script_acceptance=sum(accepted[u] for u in group) / sum(written[u] for u in group),
            script_candidates_per_win=script,
            mindprint_candidates_per_win=mindprint,
            ratio=script / mindprint if script and mindprint else None,
        )


def _by_user(side: Sequence[YieldRun], what: str) -> Counter[str]:
    """Return the counts of all rounds together, by the user's name in the records."""
    total: Counter[str] = Counter()
    for run in side:
        for user, count in getattr(run, what).items():
            total[user.partition("-")[2]] += count
    return total


@dataclass(frozen=True)
class YieldSides:
    settings: Settings
    bench: Workbench
    http: vllm_http.HttpEngine
    engine: VllmEngine

    async def script(self, posed: Sequence[PreparedQuestion]) -> YieldRun:
        """Four candidates an engagement in one request, all requests at once, then the verdicts."""
        run = YieldRun(engagements=len(posed))
        contexts = self.bench.contexts(self.http)
        accepted: dict[str, set[str]] = defaultdict(set)
        began = time.perf_counter()
        await asyncio.gather(*(self._one(contexts, each, accepted[each.user_id], run) for each in posed))
        run.seconds = time.perf_counter() - began
        return run

    async def _one(self, contexts: ContextBuilder, each: PreparedQuestion, accepted: set[str], run: YieldRun) -> None:
        from mindprint_server.engine import Priority, Sampling
        from mindprint_server.generation.engagement import derive_seed
        from mindprint_server.prompts import thinking
        from mindprint_server.prompts.turns import TurnWriter
        from mindprint_server.verdicts.verifier import CandidateVerifier

        s, turns = self.settings, TurnWriter(self.http.tokenizer)
        thinking_prefix = s.thinking_prefixes["personal"]
        verifier = CandidateVerifier(s)
        context = contexts.build(
            each.question, thinking_tokens=s.max_thinking_tokens, priority=Priority.BATCH, accepted=accepted
        )
        prompt = await context.prompt("personal")
        sampling = Sampling(
            max_tokens=s.max_thinking_tokens,
            temperature=s.temperature,
            top_p=s.top_p,
            min_p=s.min_p,
            seed=derive_seed(0, each.user_id, each.engagement_id, 0),
            stop=turns.stop,
            detect_loops=True,
        )
        begun = turns.begin_thinking(prompt, thinking_prefix)
        written = await self.http.generate_many(begun.ids, sampling, CANDIDATES)
        won = 0
        judged = await asyncio.gather(
            *(
                verifier.verify(
                    context,
                    one,
                    thinking=thinking.finalize_thinking(thinking_prefix, one.text, one.finish),
                    thinking_prefix=thinking_prefix,
                    hinted=False,
                )
                for one in written
            )
        )
        for verdict in judged:
            run.written[each.user_id] += 1
            if verdict.reason is None:
                won = 1
                run.accepted[each.user_id] += 1
                for name, value in verdict.scores.items():
                    run.scores[name].append(value)
        run.won[each.user_id] += won
        run.tokens += sum(len(one.token_ids) for one in written)

    async def mindprint(self, part: Slice, changes: dict[str, Any]) -> YieldRun:
        """One batch over the slice on a store of its own."""
        from mindprint_server.wiring import close_services, open_services

        settings = self.settings.model_copy(update=changes)
        await self.engine.llm.reset_prefix_cache()  # every part of the ablation works on the same engagements
        shutil.rmtree(settings.data_dir, ignore_errors=True)
        services = await open_services(settings, engine=self.engine)
        try:
            for user_id, engagements in part.users.items():
                await services.store.engagements.add(user_id, engagements)
            batch, _ = await services.batches.submit(BatchRequest())
            async for state in services.batches.watch(batch.id):
                batch = state
            if batch.state != "done" or batch.finished_at is None:
                raise CannotMeasure(f"the batch ended as {batch.state}: {batch.error}")
            # By the server's clock: who watches hears of the end up to half a second later.
            seconds = (batch.finished_at - batch.created_at).total_seconds()
            traces = await services.store.traces.find(batch=batch.id, limit=1_000_000)
        finally:
            await close_services(services, keep_engine=True)
        run = YieldRun(seconds, batch.done - batch.skipped["no_history"], batch.generated_tokens, hinted=batch.hinted)
        winners = {(t.user_id, t.engagement_id) for t in traces if t.verdict == "accepted"}
        for trace in traces:
            run.written[trace.user_id] += 1
            if trace.verdict == "accepted":
                run.accepted[trace.user_id] += 1
                for name, value in trace.scores.items():
                    run.scores[name].append(value)
        for user_id, _ in winners:
            run.won[user_id] += 1
        return run


if __name__ == "__main__":
    typer.run(main)
