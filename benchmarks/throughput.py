"""Does Mindprint write traces at the engine's own speed?

The same prompts with the same sampling and seeds go through (a) offline `LLM.generate`, (b) vLLM's HTTP server with an
async client, and (c) Mindprint end to end: a batch over HTTP, planner, verdicts and store. The three engines have equal
flags, and the sides take turns. One candidate an engagement, in the planner's order on every side. Verdicts are work
that (a) and (b) do not have: (c) also scores answers, Gain and Anchor on the same engine, within the time measured.
So there is a fourth side, which shows what of the difference is the engine's work and what is Mindprint's: (d) offline
`LLM.generate` of all that (c) asked of its engine, the scores included, all of it known from the beginning.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mindprint import AsyncMindprintClient
from mindprint.local.cluster import LocalCluster
from mindprint.local.console import Output
from mindprint.model_files import resolve
from mindprint.types import BatchRequest, Trace
from peers import vllm_http
from support.exclusive import exclusive_turn
from support.harness import CannotMeasure, JsonFile, Quick, Report, Spread, measure, silent_output, spread
from support.subprocess_job import FOLDER
from support.workload import PROFILE_NEVER, PreparedQuestion, Slice, Workbench, engine_flags, slices, workbench

if TYPE_CHECKING:
    from mindprint_server.engine import AdapterRef, Priority, Sampling
    from mindprint_server.settings import Settings

WARM_UP = 3
START_S = 300


@dataclass(frozen=True)
class ThroughputRun:
    seconds: float
    tokens: int
    """Of thinking."""
    texts: list[str]
    scores: int = 0
    """Requests for log-probabilities."""

    @property
    def speed(self) -> float:
        return self.tokens / self.seconds


def main(
    json_file: JsonFile = None,
    quick: Quick = False,
    data: Annotated[Path, typer.Option(envvar="MINDPRINT_DATA", help="The folder that has the records in it.")] = Path(
        "../shared/data"
    ),
    records: Annotated[str, typer.Option(help="Which records: a folder of --data.")] = "unvotes",
    users: Annotated[int, typer.Option(help="Users in a round.")] = 0,
    each: Annotated[int, typer.Option(help="Engagements of each user in a round.")] = 0,
    rounds: Annotated[int, typer.Option(help="Rounds after the warm-up.")] = 3,
    thinking: Annotated[int, typer.Option(help="The thinking budget in tokens.")] = 256,
    model: Annotated[str, typer.Option(help="A folder, or `default`.")] = "default",
) -> None:
    from mindprint_server.settings import Settings

    users, each = users or (4 if quick else 8), each or (6 if quick else 26)
    settings = Settings(model=model, profile_every=PROFILE_NEVER, max_thinking_tokens=thinking, hints=False)

    async def work(out: Output, report: Report) -> None:
        parts = slices(data / records, users=users, each=each, rounds=rounds, warm_up=WARM_UP)
        async with AsyncExitStack() as stack:
            sides = await ThroughputSides.open(stack, settings, out)
            report.machine["device"] = (await sides.client.server.info()).device
            await stack.enter_async_context(exclusive_turn())
            runs: dict[str, list[ThroughputRun]] = {name: [] for name in sides.names}
            with out.bar("throughput", (len(parts)) * len(sides.names)) as bar:
                for number, part in enumerate(parts):
                    asked = await sides.prepare(part)
                    for name in [*sides.names[:-1][:: -1 if number % 2 else 1], sides.names[-1]]:
                        bar.update(bar.done, f"{name}, round {number} of {rounds}" if number else f"{name}, warm-up")
                        run = await sides.run(name, part, asked)
                        bar.advance()
                        if number:
                            runs[name].append(run)
                bar.finish("measured")
        report_runs(report, runs, thinking)

    measure(__doc__, "two minutes" if quick else "about eight minutes on two cores", json_file, work)


def report_runs(report: Report, runs: dict[str, list[ThroughputRun]], thinking: int) -> None:
    offline, mindprint = runs["a offline"], runs["c mindprint"]
    for name, side in runs.items():
        report.row(
            side=name,
            tokens_per_s=spread(run.speed for run in side),
            against_offline=speed_ratio(side, offline),
            tokens=sum(run.tokens for run in side),
            scores=sum(run.scores for run in side),
            same_texts=equal_share(side, offline),
            thinking_budget=thinking,
        )
    ratio = speed_ratio(mindprint, offline).median
    report.bar("(c)/(a), generated tokens a second, median of the rounds", ratio, at_least=0.95)
    ratio = speed_ratio(mindprint, runs["d offline, scores too"]).median
    report.bar("(c)/(d), the same requests of the engine, median of the rounds", ratio, at_least=0.95)


def speed_ratio(side: Sequence[ThroughputRun], other: Sequence[ThroughputRun]) -> Spread:
    return spread(run.speed / base.speed for run, base in zip(side, other, strict=True))


def equal_share(side: Sequence[ThroughputRun], other: Sequence[ThroughputRun]) -> float:
    """Share of the texts that are the same on both sides, where texts were kept."""
    pairs = [pair for a, b in zip(side, other, strict=True) for pair in zip(a.texts, b.texts, strict=False)]
    return sum(a == b for a, b in pairs) / len(pairs) if pairs else 0.0


@dataclass
class RoundPrompts:
    """What every side gets."""

    posed: list[PreparedQuestion]
    prompts: list[list[int]]
    sampling: list[Sampling]
    scored: list[tuple[list[int], list[int]]] = field(default_factory=list)
    """Prompts and token ids of the scores that (c) asked for, once it has run."""


@dataclass(frozen=True)
class ThroughputSides:
    """The three sides, started and ready."""

    settings: Settings
    offline: OfflineProcess
    http: vllm_http.HttpEngine
    client: AsyncMindprintClient
    bench: Workbench

    names = ("a offline", "b http", "c mindprint", "d offline, scores too")

    @classmethod
    async def open(cls, stack: AsyncExitStack, settings: Settings, out: Output) -> ThroughputSides:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mindprint-throughput-")))
        cluster = stack.enter_context(LocalCluster(folder))
        with out.bar("three engines") as bar:
            bar.update(0, "starting")
            offline, http, client = await asyncio.gather(
                _offline(stack, settings, folder),
                stack.enter_async_context(vllm_http.run_vllm_server(cluster.processes, settings, silent_output())),
                _mindprint(stack, cluster, settings),
            )
            bar.finish("ready")
        return cls(settings, offline, http, client, await stack.enter_async_context(workbench(settings, http)))

    async def prepare(self, part: Slice) -> RoundPrompts:
        from mindprint_server.engine import Sampling
        from mindprint_server.generation.engagement import derive_seed
        from mindprint_server.prompts.turns import TurnWriter

        s, turns = self.settings, TurnWriter(self.bench.engine.tokenizer)
        posed = await self.bench.pose(part)
        built = [self.bench.prompts.build(p.question, "personal", thinking_tokens=s.max_thinking_tokens) for p in posed]
        prompts = [turns.begin_thinking(prompt, s.thinking_prefixes["personal"]).ids for prompt in built]
        sampling = [
            Sampling(
                max_tokens=s.max_thinking_tokens,
                temperature=s.temperature,
                top_p=s.top_p,
                min_p=s.min_p,
                seed=derive_seed(0, p.user_id, p.engagement_id, 0),
                stop=turns.stop,
                detect_loops=True,
            )
            for p in posed
        ]
        return RoundPrompts(posed, prompts, sampling)

    async def run(self, name: str, part: Slice, asked: RoundPrompts) -> ThroughputRun:
        sides = {"a": self._offline, "b": self._raw, "c": self._mindprint, "d": self._offline_with_scores}
        return await sides[name[0]](part, asked)

    async def _offline(self, part: Slice, asked: RoundPrompts) -> ThroughputRun:
        reply = await self.offline.ask({"prompts": asked.prompts, "sampling": [_fields(s) for s in asked.sampling]})
        return ThroughputRun(reply["seconds"], reply["tokens"], reply["texts"])

    async def _offline_with_scores(self, part: Slice, asked: RoundPrompts) -> ThroughputRun:
        """Return what (c) has just asked of its engine. Its scores come last: what they read is then in the cache."""
        scored = [{"max_tokens": 1, "temperature": 0.0, "logprob_token_ids": tokens} for _, tokens in asked.scored]
        reply = await self.offline.ask(
            {
                "prompts": asked.prompts + [prompt for prompt, _ in asked.scored],
                "sampling": [_fields(s) for s in asked.sampling] + scored,
            }
        )
        count = len(scored)
        return ThroughputRun(reply["seconds"], reply["tokens"] - count, reply["texts"][: len(asked.prompts)], count)

    async def _raw(self, part: Slice, asked: RoundPrompts) -> ThroughputRun:
        from mindprint_server.engine import Priority

        began = time.perf_counter()
        written = await asyncio.gather(
            *(
                self.http.generate(prompt, sampling, adapter=None, priority=Priority.BATCH)
                for prompt, sampling in zip(asked.prompts, asked.sampling, strict=True)
            )
        )
        seconds = time.perf_counter() - began
        return ThroughputRun(seconds, sum(len(w.token_ids) for w in written), [w.text for w in written])

    async def _mindprint(self, part: Slice, asked: RoundPrompts) -> ThroughputRun:
        for user_id, engagements in part.users.items():
            await self.client.users.add_engagements(user_id, engagements)
        batch = await self.client.batches.create(BatchRequest(users=list(part.users), candidates=1))
        async for state in self.client.batches.watch(batch.id):
            batch = state
        if batch.state != "done" or batch.funnel.generated != len(asked.posed):
            raise CannotMeasure(f"the batch ended as {batch.state} with {batch.funnel.generated} candidates")
        traces = {str(trace.engagement_id): trace async for trace in self.client.batches.results(batch.id)}
        prompts = self.bench.engine.tokenizer
        for posed, prompt in zip(asked.posed, asked.prompts, strict=True):
            ids = prompts.encode(traces[posed.engagement_id].prompt)
            if prompt[: len(ids)] != ids:
                raise CannotMeasure(f"the server asked about {posed.engagement_id} with another prompt")
        asked.scored = await self._scores(asked, traces)
        # By the server's clock: who watches hears of the end up to half a second later.
        assert batch.finished_at is not None
        return ThroughputRun(
            (batch.finished_at - batch.created_at).total_seconds(), batch.generated_tokens, [], len(asked.scored)
        )

    async def _scores(self, asked: RoundPrompts, traces: Mapping[str, Trace]) -> list[tuple[list[int], list[int]]]:
        """Return the scores that the verdicts on these traces ask of an engine, by computing the verdicts once more."""
        from mindprint_server.engine import GenerationOutput, Priority
        from mindprint_server.verdicts.verifier import CandidateVerifier

        recorder = RecordingEngine(self.http)
        contexts, verifier = self.bench.contexts(recorder), CandidateVerifier(self.settings)
        accepted: dict[str, set[str]] = defaultdict(set)
        for posed in asked.posed:
            trace = traces[posed.engagement_id]
            written = GenerationOutput("", (), trace.finish, trace.prompt_tokens, trace.cached_tokens)  # type: ignore[arg-type]
            context = contexts.build(
                posed.question,
                thinking_tokens=self.settings.max_thinking_tokens,
                priority=Priority.BATCH,
                accepted=accepted[posed.user_id],
            )
            thinking_prefix = self.settings.thinking_prefixes["personal"]
            await verifier.verify(
                context, written, thinking=trace.thinking, thinking_prefix=thinking_prefix, hinted=False
            )
        return recorder.scored


class RecordingEngine(vllm_http.HttpEngine):
    """vLLM's HTTP server, keeping what log-probabilities it was asked for."""

    def __init__(self, of: vllm_http.HttpEngine) -> None:
        self.__dict__.update(of.__dict__)
        self.scored: list[tuple[list[int], list[int]]] = []

    async def next_logprobs(
        self, prompt_ids: Sequence[int], token_ids: Sequence[int], *, adapter: AdapterRef | None, priority: Priority
    ) -> list[float]:
        self.scored.append((list(prompt_ids), list(token_ids)))
        return await super().next_logprobs(prompt_ids, token_ids, adapter=adapter, priority=priority)


def _fields(sampling: Sampling) -> dict[str, Any]:
    """Of vLLM's SamplingParams."""
    body = vllm_http.sampling_body(sampling)
    loops = body.pop("repetition_detection")
    for name in ("model", "return_token_ids"):
        del body[name]
    return body | {"loops": loops}


class OfflineProcess:
    """The process of vllm_offline.py."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, question: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        await self._process.stdin.drain()
        return await self.answer()

    async def answer(self) -> Any:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise CannotMeasure("vllm_offline.py ended: see its log")
        return json.loads(line)


async def _offline(stack: AsyncExitStack, settings: Settings, folder: Path) -> OfflineProcess:
    flags = engine_flags(settings)
    log = stack.enter_context((folder / "offline.log").open("wb"))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "peers.vllm_offline",
        cwd=FOLDER,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=log,
        limit=2**26,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )

    async def end() -> None:
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 30)
        except TimeoutError:
            process.kill()

    stack.push_async_callback(end)
    offline = OfflineProcess(process)
    await offline.ask(flags)
    return offline


async def _mindprint(stack: AsyncExitStack, cluster: LocalCluster, settings: Settings) -> AsyncMindprintClient:
    await cluster.start_server(
        resolve(settings.model),
        {
            "PROFILE_EVERY": str(settings.profile_every),
            "MAX_THINKING_TOKENS": str(settings.max_thinking_tokens),
            "HINTS": str(settings.hints).lower(),
            "PREFILTER_BY_PRIOR": "false",  # or it would leave out what the other sides write
            "MIN_ANSWER_FREQUENCY": "0",  # likewise
            "HOLDOUT_SHARE": "0",  # likewise
        },
        timeout_s=START_S,
    )
    return await stack.enter_async_context(AsyncMindprintClient(cluster.url))


if __name__ == "__main__":
    typer.run(main)
