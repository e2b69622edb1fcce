"""The steps of the demo, each against the real server over HTTP, each with its progress."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from mindprint import AsyncMindprintClient
from mindprint.datasets import UserDataset
from mindprint.local.adapter_pages import list_adapters
from mindprint.local.cluster import EXHAUSTIVE_SETTINGS, TRAINING_POLL_S, LocalCluster
from mindprint.local.console import Output, batch_progress, training_progress
from mindprint.local.processes import Child
from mindprint.local.stalls import Progress
from mindprint.types import Adapter, Batch, BatchRequest, Mode, Trace, TraceState
from mindprint.types.keys import AdapterKey
from mindprint_demo.errors import DemoError
from mindprint_demo.options import DemoOptions
from mindprint_demo.results import CollapseResult, DemoResults
from mindprint_demo.scoring import Arm, ArmScores, score_arm
from mindprint_demo.trace_accounting import account_for_traces

SERVER_SETTINGS = {"HOLDOUT_SHARE": "0.2", **EXHAUSTIVE_SETTINGS}
"""Histories are short: a tenth of one would be too few engagements for the gate."""
TRAINER_SETTINGS = {
    "LOG_EVERY_S": "1",
    "MIN_TRACES": "1",  # train on any number of traces: the gate decides
    # On a CPU each adapter is trained on a core of its own (docs/decisions/011).
    "MAX_CONCURRENT_ADAPTERS": "4",
}
_ANSWERS = ('route="/readyz"', 'method="GET",route="/v1/adapters/{kind}/{name}",status="404"')
"""A trainer asks before a repeated training whether the adapter has versions."""
_FAILED = re.compile(r'^mindprint_requests_total\{(?P<labels>.*status="[45]\d\d".*)\} (?P<count>\S+)$', re.MULTILINE)


CollapseStep = Callable[["DemoPipeline", Sequence[UserDataset], Mapping[str, Adapter]], Awaitable[CollapseResult]]
"""A further step after the scores: `collapse.run_collapse`."""


@dataclass
class DemoPipeline:
    """Runs the steps of the demo: engagements, traces, training, scores before and after."""

    options: DemoOptions
    out: Output
    client: AsyncMindprintClient
    cluster: LocalCluster
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def modes(self) -> tuple[Mode, ...]:
        return ("direct", "personal") if self.options.thinking else ("direct",)

    async def run(self, users: list[UserDataset], collapse: CollapseStep | None = None) -> DemoResults:
        """Run all steps, from the first engagement to the last score.

        Args:
            users: The users with engagements and held-out questions.
            collapse: A further step on users who have a live adapter; None leaves it out.

        Raises:
            DemoError: A step did not come to an end.
            ProcessFailed: The server or the trainer ended.
            MindprintError: A request failed.
        """
        info = await self.client.server.info()
        with self._timed("engagements"):
            await self.ingest(users)
        with self._timed("traces"):
            batch = await self.write_traces(users, self.options.seed)
        # Scored after the traces: by then every profile is written, so both arms read the same memory.
        with self._timed("scores before"):
            before = await self.score(users, "base", "held-out questions, base model")
        with self._timed("training"):
            killed = await self.train(users)
        adapters = await self.adapters(users)
        adapted = [user for user in users if user.user_id in adapters and adapters[user.user_id].live is not None]
        with self._timed("scores after"):
            after = await self.score(adapted, "adapter", "held-out questions, adapters")
        traces = await self.traces(batch)
        cohorts = await self.cohorts()
        results = DemoResults(
            users=users,
            info=info,
            batch=batch,
            funnels={user.user_id: await self.client.server.funnel(user.user_id) for user in users},
            tokens={
                user.user_id: sum(t.thinking_tokens for t in traces if t.user_id == user.user_id) for user in users
            },
            before=before,
            after=after,
            adapters=adapters,
            cohorts=cohorts,
            accounting=account_for_traces(accepted_traces(traces), adapters.values(), cohorts),
            failed_requests=0,
            trainer_killed=killed,
            seconds=self.seconds,
        )
        if collapse is not None and adapted:
            with self._timed("collapse"):
                results.collapse = await collapse(self, adapted, adapters)
            traces += [trace for batch in results.collapse.batches for trace in await self.traces(batch)]
            known = await self.adapters(users)
            results.accounting = account_for_traces(accepted_traces(traces), known.values(), cohorts)
        failed = count_failed_requests(await self.client.server.metrics())
        results.failed_requests = failed + len(before.failures) + len(after.failures)
        return results

    async def ingest(self, users: Sequence[UserDataset]) -> None:
        with self.out.bar("engagements", len(users)) as bar:
            stored = 0
            for user in users:
                for start in range(0, len(user.engagements), 500):
                    reply = await self.client.users.add_engagements(user.user_id, user.engagements[start : start + 500])
                    stored += reply.created
                bar.advance()
            sent = sum(len(user.engagements) for user in users)
            known = f", {sent - stored} were there" if sent > stored else ""
            bar.finish(f"{stored} of {len(users)} users stored{known}")

    async def write_traces(self, users: Sequence[UserDataset], seed: int) -> Batch:
        """Run one durable batch over these users to its end; each seed makes a batch of its own."""
        request = BatchRequest(
            users=[user.user_id for user in users],
            seed=seed,
            idempotency_key=f"{self.cluster.folder.name}/{seed}",
        )
        batch = await self.client.batches.create(request)
        with self.out.bar("traces", batch.items) as bar:
            async for state in self.client.batches.watch(batch.id):
                batch = state
                bar.update(batch.done, batch_progress(batch))
            if batch.state != "done":
                raise DemoError(f"the batch ended as {batch.state}: {batch.error or 'no reason given'}")
            if not batch.funnel.accepted:
                raise DemoError("no trace was accepted, so there is nothing to train on: ask for more engagements")
            bar.finish(batch_progress(batch))
        return batch

    async def score(self, users: Sequence[UserDataset], arm: Arm, title: str) -> ArmScores:
        total = sum(len(user.held_out) for user in users) * len(self.modes)
        with self.out.bar(title, total) as bar:
            scores = await score_arm(
                self.client, users, self.modes, arm, in_flight=self.options.in_flight, tick=bar.advance
            )
            bar.finish(f"{total - len(scores.failures)} of {total} answered")
        return scores

    async def train(self, users: Sequence[UserDataset]) -> str | None:
        """Run the trainer until no accepted trace waits; return what it was doing if it was killed meanwhile.

        It waits as long as there is progress: a training step, a version, or a check that the server is doing.
        """
        killed: str | None = None
        trainer = self.start_trainer()
        progress = Progress(self.options.train_timeout_s)
        idle = 0
        with self.out.bar("adapters", len(users)) as bar:
            while idle < 2:  # seen twice, for a trace may change hands between the two questions
                await asyncio.sleep(TRAINING_POLL_S)
                trainer.check()
                leased = await self._any("leased")
                idle = 0 if leased or await self._any("waiting") else idle + 1
                known = await list_adapters(self.client)
                live = sum(a.live is not None for a in known if AdapterKey(a.key).kind == "user")
                doing = trainer.doing()
                bar.update(live, training_progress(doing) or "the trainer starts")
                progress.note((sum(len(adapter.versions) for adapter in known), doing))
                if progress.is_stalled(doing):
                    raise DemoError(progress.explain(doing, trainer.log, self.cluster.folder / "server.log"))
                if self.options.kill_trainer and killed is None and leased and doing.startswith("training"):
                    killed = training_progress(trainer.doing())
                    trainer.kill()
                    self.out.say(f"trainer killed (kill -9) while {killed}; started again")
                    trainer = self.start_trainer()
            bar.finish(f"{live} live")
        await self.cluster.stop(trainer)
        return killed

    async def adapters(self, users: Sequence[UserDataset]) -> dict[str, Adapter]:
        known = {adapter.key: adapter for adapter in await list_adapters(self.client)}
        return {user.user_id: known[key] for user in users if (key := AdapterKey.user(user.user_id)) in known}

    async def cohorts(self) -> list[Adapter]:
        return [a for a in await list_adapters(self.client) if AdapterKey(a.key).kind == "cohort"]

    async def traces(self, batch: Batch) -> list[Trace]:
        return [trace async for trace in self.client.batches.results(batch.id)]

    async def _any(self, state: TraceState) -> bool:
        return bool((await self.client.traces.list(state=state, limit=1)).traces)

    def start_trainer(self, name: str = "trainer", settings: Mapping[str, str] | None = None) -> Child:
        return self.cluster.start_trainer(name, {**TRAINER_SETTINGS, **(settings or {})})

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began, 1)


def accepted_traces(traces: Iterable[Trace]) -> list[Trace]:
    return [trace for trace in traces if trace.verdict == "accepted"]


def count_failed_requests(metrics: str) -> int:
    """Count the error replies of the server, without those that are answers: no health yet, and no adapter yet."""
    return sum(
        int(float(match["count"]))
        for match in _FAILED.finditer(metrics)
        if not any(answer in match["labels"] for answer in _ANSWERS)
    )
