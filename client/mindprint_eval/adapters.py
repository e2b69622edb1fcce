"""Build the adapters of a shard through the service: its batches, leases, trainer and gate."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mindprint import ApiError, AsyncMindprintClient, gate_report
from mindprint.datasets import UserDataset
from mindprint.local.adapter_pages import list_adapters
from mindprint.local.cluster import TRAINING_POLL_S, LocalCluster
from mindprint.local.console import Output, batch_progress, training_progress
from mindprint.local.processes import Child
from mindprint.local.stalls import Progress
from mindprint.types import Adapter, BatchRequest, ImportedTrace, Trace, Version
from mindprint.types.keys import AdapterKey, ModelName, VersionRef
from mindprint_eval.arms import Recipe
from mindprint_eval.config import EvalOptions, EvaluationError
from mindprint_eval.training_sets import placeholder_trace, training_user_id

REQUEST_CHUNK = 500
"""Maximum number of engagements or traces in one request."""


@dataclass(frozen=True)
class BuiltAdapter:
    """An adapter, or why there is none."""

    model: str | None
    """The model as a request names it; None if there is no adapter."""
    digest: str | None
    outcome: str
    """`live`, `refused`, or `no_adapter`."""
    why: str
    version: Version | None = None

    @property
    def cohort(self) -> str:
        """Return the name of the cohort of this adapter."""
        key = ModelName(str(self.model)).key
        assert key is not None
        return key.name

    def row(self, recipe: str, seed: int, user: str) -> dict[str, Any]:
        """Return a row of the report's table of adapters.

        Args:
            recipe: Name of the recipe.
            seed: Seed of the shard.
            user: User id, or `pool`.
        """
        manifest = self.version.manifest if self.version else None
        return {
            "recipe": recipe,
            "seed": seed,
            "user": user,
            "model": self.model,
            "state": self.outcome,
            "why": self.why,
            "traces": self.version.traces if self.version else 0,
            "samples": manifest.samples if manifest else {},
            "tokens": manifest.tokens if manifest else 0,
            "seconds": round(manifest.seconds, 1) if manifest else 0.0,
            "losses": manifest.losses if manifest else {},
            "checks": [check.model_dump() for check in self.version.checks] if self.version else [],
        }


class AdapterBuilder:
    """Uploads data, generates traces and trains adapters on the server of a shard."""

    def __init__(
        self, options: EvalOptions, out: Output, client: AsyncMindprintClient, cluster: LocalCluster, seed: int
    ) -> None:
        self._options, self._out, self._client = options, out, client
        self._cluster, self._seed = cluster, seed

    # --- what is trained on ---

    async def upload_engagements(self, users: Sequence[UserDataset]) -> None:
        """Upload the engagements of these users; those that are there already stay."""
        for user in users:
            await self._upload(user.user_id, user)

    async def _upload(self, name: str, user: UserDataset) -> None:
        for start in range(0, len(user.engagements), REQUEST_CHUNK):
            await self._client.users.add_engagements(name, user.engagements[start : start + REQUEST_CHUNK])

    async def generate_traces(self, title: str, users: Sequence[str], **how: Any) -> list[Trace]:
        """Run one batch and return all candidates. A batch with the same title and seed runs only once.

        Args:
            title: Title of the progress bar, and part of the idempotency key.
            users: User ids.
            **how: Other fields of the batch request.

        Raises:
            EvaluationError: The batch did not end as done.
        """
        request = BatchRequest(users=list(users), seed=self._seed, idempotency_key=f"{title}/{self._seed}", **how)
        batch = await self._client.batches.create(request)
        with self._out.bar(title, batch.items) as bar:
            async for state in self._client.batches.watch(batch.id):
                batch = state
                bar.update(batch.done, batch_progress(batch))
            if batch.state != "done":
                raise EvaluationError(f"the batch ended as {batch.state}: {batch.error or 'no reason given'}")
            bar.finish(batch_progress(batch))
        return [trace async for trace in self._client.batches.results(batch.id)]

    async def upload_copy(self, user: UserDataset, name: str) -> str:
        """Upload a history under another user id, and return the id."""
        await self._upload(name, user)
        return name

    # --- training ---

    async def build_user_adapters(
        self,
        recipe: Recipe,
        users: Sequence[UserDataset],
        training_sets: Mapping[str, Sequence[ImportedTrace]],
        cohort_adapter: BuiltAdapter | None = None,
    ) -> dict[str, BuiltAdapter]:
        """Train one adapter for each user; adapters that exist are not trained again.

        Args:
            recipe: How the adapters are trained.
            users: The users.
            training_sets: The training set of each user, by user id.
            cohort_adapter: The cohort's adapter to start from; None starts from the base model.

        Returns:
            The adapters by user id.
        """
        keys: dict[str, str] = {}
        made: dict[str, BuiltAdapter] = {}
        objective = self._objective(recipe)
        if cohort_adapter is not None and cohort_adapter.model is None:
            return {user.user_id: replace(cohort_adapter, why=f"to start from: {cohort_adapter.why}") for user in users}
        for user in users:
            traces = self._training_set_of(recipe, user, training_sets)
            if not traces:
                made[user.user_id] = BuiltAdapter(None, None, "no_adapter", no_training_set_message(recipe))
                continue
            content = [objective, _content(traces), *([cohort_adapter.digest] if cohort_adapter else [])]
            name = training_user_id(user.user_id, recipe.name, content)
            keys[user.user_id] = AdapterKey.user(name)
            await self._upload_training_set(name, user, traces)
            if cohort_adapter is not None:
                await self._client.cohorts.add_members(cohort_adapter.cohort, [name])
        await self._train(recipe, list(keys.values()), objective)
        return made | {user_id: await self._load_adapter(key) for user_id, key in keys.items()}

    async def build_pooled_adapter(
        self, recipe: Recipe, pool: Sequence[UserDataset], training_sets: Mapping[str, Sequence[ImportedTrace]]
    ) -> BuiltAdapter:
        """Train one adapter on all users of the pool.

        Args:
            recipe: How the adapter is trained.
            pool: The users.
            training_sets: The training set of each user, by user id.
        """
        if not pool:
            return BuiltAdapter(None, None, "no_adapter", "the records have no other users to train it on")
        objective = self._objective(recipe)
        traces = {user.user_id: self._training_set_of(recipe, user, training_sets) for user in pool}
        if not any(traces.values()):
            return BuiltAdapter(None, None, "no_adapter", no_training_set_message(recipe))
        content = [objective, {user_id: _content(some) for user_id, some in traces.items()}]
        name = training_user_id("pool", recipe.name, content)
        await self._client.cohorts.put(name, f"for an evaluation: {recipe.what}")
        for user in pool:
            if traces[user.user_id]:
                member = training_user_id(user.user_id, recipe.name, content)
                await self._upload_training_set(member, user, traces[user.user_id])
                await self._client.cohorts.add_members(name, [member])
        await self._train(recipe, [AdapterKey.cohort(name)], objective)
        return await self._load_adapter(AdapterKey.cohort(name))

    def _training_set_of(
        self, recipe: Recipe, user: UserDataset, training_sets: Mapping[str, Sequence[ImportedTrace]]
    ) -> Sequence[ImportedTrace]:
        return (
            placeholder_trace(user.engagements[0].id) if recipe.training_set == "none" else training_sets[user.user_id]
        )

    async def _upload_training_set(self, name: str, user: UserDataset, training_sets: Sequence[ImportedTrace]) -> None:
        await self._upload(name, user)
        for start in range(0, len(training_sets), REQUEST_CHUNK):
            await self._client.traces.add(name, training_sets[start : start + REQUEST_CHUNK])

    def _objective(self, recipe: Recipe) -> dict[str, str]:
        return {"SEED": str(self._seed), **self._options.objective, **recipe.objective}

    async def _train(self, recipe: Recipe, keys: Sequence[str], objective: Mapping[str, str]) -> None:
        """Run a trainer until each of these adapters is trained or has nothing left to train on."""
        open_ = [key for key in keys if (await self._adapter(key)) is None]
        if not open_:
            return
        variables = {
            **objective,
            "ADAPTER": ",".join(open_),
            "ONCE": "true",
            "MIN_TRACES": "1",  # every user answers, and the tables say of how many traces
            "WORK_DIR": str(self._cluster.folder / "trainer"),
        }
        trainer = self._cluster.start_trainer(f"trainer-{recipe.name}", variables)
        with self._out.bar(f"adapters, {recipe.name}", len(open_)) as bar:
            progress = Progress(self._options.train_timeout_s)
            while trainer.running():
                await asyncio.sleep(TRAINING_POLL_S)
                known = {adapter.key for adapter in await list_adapters(self._client)}
                count, doing = sum(key in known for key in open_), trainer.doing()
                bar.update(count, training_progress(doing) or "the trainer starts")
                progress.note((count, doing))
                if progress.is_stalled(doing):
                    raise EvaluationError(progress.explain(doing, trainer.log, self._cluster.folder / "server.log"))
            check_trainer_exit(trainer)
            bar.finish(f"{sum([await self._adapter(key) is not None for key in open_])} trained")

    async def _adapter(self, key: str) -> Adapter | None:
        try:
            return await self._client.adapters.get(key)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def _load_adapter(self, key: str) -> BuiltAdapter:
        adapter = await self._adapter(key)
        if adapter is None or not adapter.versions:
            return BuiltAdapter(None, None, "no_adapter", f"no version of {key} was made: see the trainer's log")
        newest = adapter.versions[-1]
        if adapter.live is None:
            speaks = ", ".join(gate_report.failed(newest)) or "no reason given"
            return BuiltAdapter(None, None, "refused", f"{VersionRef.of(key, newest.version)}: {speaks}", newest)
        live = next(version for version in adapter.versions if version.version == adapter.live)
        return BuiltAdapter(VersionRef.of(key, live.version), live.digest, "live", "", live)


def _content(training_sets: Sequence[ImportedTrace]) -> list[dict[str, Any]]:
    return [trace.model_dump(mode="json") for trace in training_sets]


def check_trainer_exit(trainer: Child) -> None:
    """Check that a trainer ended well.

    Raises:
        EvaluationError: It ended with an error code.
    """
    if trainer.code:
        raise EvaluationError(
            f"the trainer ended with code {trainer.code}: see {trainer.log}\n" + "\n".join(trainer.tail(8))
        )


def no_training_set_message(recipe: Recipe) -> str:
    return "fewer than two traces to shuffle" if recipe.training_set == "shuffled" else "no trace was accepted"
