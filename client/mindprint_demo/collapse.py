"""Trains one user's adapter by answers only, until it can no longer think, and watches the gate refuse it.

The user has meanwhile answered the held-out questions: they come in as engagements, and the traces about them are what
the trainer takes. They wait again once the version is refused, and the ordinary trainer takes them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import TYPE_CHECKING

from mindprint import gate_report
from mindprint.async_client import AsyncMindprintClient
from mindprint.datasets import HeldOutQuestion, UserDataset
from mindprint.exceptions import MindprintError
from mindprint.types import Adapter, Batch, Engagement, Version
from mindprint_demo.errors import DemoError
from mindprint_demo.options import DemoOptions
from mindprint_demo.scoring import build_request

if TYPE_CHECKING:
    from mindprint_demo.pipeline import DemoPipeline

QUESTION_INTERVAL_S = 3.0
"""Between two questions to the live version: without a pause they would take the cores from the training."""


@dataclass
class CollapseResult:
    """What became of it."""

    user_id: str
    live: Version
    """The version that was live before."""
    batches: list[Batch] = field(default_factory=list)
    version: Version | None = None
    """What was made by answers only."""
    live_after: int | None = None
    """The live version's number once `version` had been through the gate."""
    answered: int = 0
    """Questions that the live version answered meanwhile."""
    failures: list[str] = field(default_factory=list)
    """Questions that got no answer, or one of another version."""
    later: Version | None = None
    """What the ordinary trainer made of the same traces, the newest."""
    failed: str | None = None
    """Why it did not come to an end."""

    def problems(self) -> list[str]:
        """Why the gate cannot be said to have caught it; empty if it can."""
        found = [self.failed] if self.failed else []
        if self.version is not None:
            name, speaks = f"{self.version.adapter}@{self.version.version}", gate_report.failed(self.version)
            if self.version.state != "refused":
                found.append(f"the gate let {name} pass, which was trained by answers only")
            elif all(check.startswith("canary") for check in speaks):
                found.append(f"{name} was refused, but not for its thinking: {', '.join(speaks) or 'no check failed'}")
            if self.live_after != self.live.version:
                found.append(f"version {self.live.version} was live before, {self.live_after or 'none'} after")
        return found + [f"while {self.user_id} was trained: {failure}" for failure in self.failures[:3]]


async def run_collapse(
    stages: DemoPipeline, users: Sequence[UserDataset], adapters: Mapping[str, Adapter]
) -> CollapseResult:
    """`users` have a live version each. The one with the most traces is taken. Raises ProcessFailed, MindprintError."""
    live = {user.user_id: live_version(adapters[user.user_id]) for user in users}
    user = max(users, key=lambda user: live[user.user_id].traces)
    collapse = CollapseResult(user.user_id, live[user.user_id])
    try:
        await stages.client.users.add_engagements(user.user_id, held_out_as_engagements(user))
        collapse.batches.append(await stages.write_traces([user], stages.options.seed + 1))
        await _train(stages, user, collapse)
        await stages.train([user])
        newest = (await stages.client.adapters.get(collapse.live.adapter)).versions[-1]
        collapse.later = newest if newest.version > (collapse.version or collapse.live).version else None
    except DemoError as error:
        collapse.failed = str(error)
    return collapse


async def _train(stages: DemoPipeline, user: UserDataset, collapse: CollapseResult) -> None:
    """Until a version has been through the gate. Meanwhile the live one is asked a question every few seconds."""
    key, client, timeout_s = collapse.live.adapter, stages.client, stages.options.train_timeout_s
    before = {version.version for version in (await client.adapters.get(key)).versions}
    trainer = stages.start_trainer("collapse", answers_only_settings(stages.options, key))
    deadline = time.monotonic() + timeout_s
    rows = cycle(user.held_out)
    with stages.out.bar("collapsed adapter") as bar:
        while collapse.version is None:
            trainer.check()
            await ask_live_version(client, collapse, next(rows))
            adapter = await client.adapters.get(key)
            collapse.version = next((v for v in adapter.versions if v.version not in before), None)
            collapse.live_after = adapter.live
            bar.update(collapse.answered, f"{collapse.answered} questions answered meanwhile; {trainer.doing()}")
            if time.monotonic() > deadline:
                raise DemoError(f"no version was made by answers only in {timeout_s:.0f} s: {trainer.log}")
            await asyncio.sleep(QUESTION_INTERVAL_S)
        bar.finish(f"version {collapse.version.version} {collapse.version.state}")
    await stages.cluster.stop(trainer)
    for row in user.held_out:
        await ask_live_version(client, collapse, row)


async def ask_live_version(client: AsyncMindprintClient, collapse: CollapseResult, row: HeldOutQuestion) -> None:
    """One question to whatever is live."""
    try:
        trace = await client.traces.create(build_request(collapse.user_id, row, "direct", "adapter"))
    except MindprintError as error:
        collapse.failures.append(f"{row.id}: {error}")
        return
    if trace.provenance.adapter_digest == collapse.live.digest:
        collapse.answered += 1
    else:
        collapse.failures.append(f"{row.id}: {trace.provenance.model} answered")


def answers_only_settings(options: DemoOptions, key: str) -> dict[str, str]:
    """The ordinary objective alone: answers without thinking, nothing that keeps thinking alive."""
    return {
        "ADAPTER": key,
        "SLOW_WEIGHT": "0",
        "REPLAY_WEIGHT": "0",
        "EPOCHS": str(options.collapse_epochs),
        "LEARNING_RATE": str(options.collapse_learning_rate),
    }


def held_out_as_engagements(user: UserDataset) -> list[Engagement]:
    """The held-out questions with the answers that the user really gave."""
    return [
        Engagement(
            id=f"{user.user_id}/later-{number}",
            prompt=row.query,
            response=row.target,
            occurred_at=row.asked_at,
            choices=row.choices,
        )
        for number, row in enumerate(user.held_out)
    ]


def live_version(adapter: Adapter) -> Version:
    return next(version for version in adapter.versions if version.version == adapter.live)
