"""The optional collapse step: train one user's adapter on answers alone, and check that the gate refuses it.

Held-out questions come in as engagements, and the trainer learns from the traces about them. Once the version is
refused these traces wait again, and a trainer with ordinary settings takes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from itertools import cycle

from mindprint.async_client import AsyncMindprintClient
from mindprint.datasets import HeldOutQuestion, UserDataset
from mindprint.exceptions import MindprintError
from mindprint.local.stalls import Progress
from mindprint.types import Adapter, Engagement, Version
from mindprint_demo.errors import DemoError
from mindprint_demo.options import DemoOptions
from mindprint_demo.pipeline import DemoPipeline
from mindprint_demo.results import CollapseResult
from mindprint_demo.scoring import build_request

QUESTION_INTERVAL_S = 3.0
"""Seconds between two questions to the live version, so that they leave the cores to the training."""


async def run_collapse(
    pipeline: DemoPipeline, users: Sequence[UserDataset], adapters: Mapping[str, Adapter]
) -> CollapseResult:
    """Train the user with the most traces on answers alone, and return what the gate did.

    Args:
        pipeline: The pipeline, with its client, options and processes.
        users: Users who have a live version.
        adapters: The adapters by user id.

    Raises:
        ProcessFailed: The server or the trainer ended.
        MindprintError: A request failed.
    """
    live = {user.user_id: live_version(adapters[user.user_id]) for user in users}
    user = max(users, key=lambda user: live[user.user_id].traces)
    collapse = CollapseResult(user.user_id, live[user.user_id])
    try:
        await pipeline.client.users.add_engagements(user.user_id, held_out_as_engagements(user))
        collapse.batches.append(await pipeline.write_traces([user], pipeline.options.seed + 1))
        await _train(pipeline, user, collapse)
        await pipeline.train([user])
        newest = (await pipeline.client.adapters.get(collapse.live.adapter)).versions[-1]
        collapse.later = newest if newest.version > (collapse.version or collapse.live).version else None
    except DemoError as error:
        collapse.failed = str(error)
    return collapse


async def _train(pipeline: DemoPipeline, user: UserDataset, collapse: CollapseResult) -> None:
    """Train until the gate has evaluated a version. Meanwhile ask the live version a question every few seconds."""
    key, client = collapse.live.adapter, pipeline.client
    before = {version.version for version in (await client.adapters.get(key)).versions}
    trainer = pipeline.start_trainer("collapse", answers_only_settings(pipeline.options, key))
    progress = Progress(pipeline.options.train_timeout_s)
    rows = cycle(user.held_out)
    with pipeline.out.bar("collapsed adapter") as bar:
        while collapse.version is None:
            trainer.check()
            await ask_live_version(client, collapse, next(rows))
            adapter = await client.adapters.get(key)
            collapse.version = next((v for v in adapter.versions if v.version not in before), None)
            collapse.live_after = adapter.live
            doing = trainer.doing()
            bar.update(collapse.answered, f"{collapse.answered} questions answered meanwhile; {doing}")
            progress.note(doing)
            if collapse.version is None and progress.is_stalled(doing):
                raise DemoError(progress.explain(doing, trainer.log, pipeline.cluster.folder / "server.log"))
            await asyncio.sleep(QUESTION_INTERVAL_S)
        bar.finish(f"version {collapse.version.version} {collapse.version.state}")
    await pipeline.cluster.stop(trainer)
    for row in user.held_out:
        await ask_live_version(client, collapse, row)


async def ask_live_version(client: AsyncMindprintClient, collapse: CollapseResult, row: HeldOutQuestion) -> None:
    """Ask the live version a question, and note whether it answered."""
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
    """Return trainer settings that learn answers without thinking, and replay nothing."""
    return {
        "ADAPTER": key,
        "SLOW_WEIGHT": "0",
        "REPLAY_WEIGHT": "0",
        "EPOCHS": str(options.collapse_epochs),
        "LEARNING_RATE": str(options.collapse_learning_rate),
    }


def held_out_as_engagements(user: UserDataset) -> list[Engagement]:
    """Return the held-out questions with the user's real answers as engagements."""
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
    """Return the live version of an adapter that has one."""
    return next(version for version in adapter.versions if version.version == adapter.live)
