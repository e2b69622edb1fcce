"""One shard of an evaluation: a group of users with one seed, from their histories to the outcomes of all arms.

A shard has its own server and store. It can be killed at any time: generated traces, trained adapters and known
responses are used again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from mindprint import AsyncMindprintClient
from mindprint.datasets import HeldOutQuestion, UserDataset
from mindprint.local.cluster import LocalCluster
from mindprint.local.console import Output
from mindprint.types import ImportedTrace, ServerInfo, Trace
from mindprint_eval import arms, training_sets
from mindprint_eval.adapters import AdapterBuilder, BuiltAdapter
from mindprint_eval.arms import ARMS, RECIPES, Arm, Recipe
from mindprint_eval.config import EvalOptions
from mindprint_eval.executor import RequestExecutor
from mindprint_eval.metrics import embedding_similarity, human_rationales
from mindprint_eval.neighbors import find_other_users
from mindprint_eval.requests import (
    CacheScope,
    EvalRequest,
    bare_thinking_params,
    build_request,
    general_questions,
    greedy_params,
    memory_param,
    perturb_thinking,
    reverse_choices,
    skipped_outcome,
)
from mindprint_eval.response_cache import ResponseCache, content_digest
from mindprint_eval.results import Outcome

POOL = "pool"
"""Stands for a user in the list of adapters."""
BASE = BuiltAdapter("base", None, "live", "")


@dataclass(frozen=True)
class EvalShard:
    """The users who are asked, the pool whose answers train the pooled adapter, and the seed."""

    users: list[UserDataset]
    pool: list[UserDataset]
    seed: int

    @property
    def all_users(self) -> list[UserDataset]:
        """Return the users and the pool."""
        return [*self.users, *self.pool]

    @property
    def histories(self) -> dict[str, str]:
        """Return the digest of each history, by user id."""
        return {
            user.user_id: content_digest([engagement.model_dump(mode="json") for engagement in user.engagements])
            for user in self.all_users
        }


@dataclass
class ShardResult:
    """What was measured in a shard."""

    outcomes: list[Outcome] = field(default_factory=list)
    candidates: list[dict[str, Any]] = field(default_factory=list)
    adapters: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class ShardServer:
    """The running server of a shard.

    Attributes:
        client: A client of the server.
        cluster: Starts the trainers.
        info: What the server says about itself.
        settings: The server's settings, by variable name without prefix.
    """

    client: AsyncMindprintClient
    cluster: LocalCluster
    info: ServerInfo
    settings: Mapping[str, str]

    @property
    def base(self) -> dict[str, str]:
        """Return what the server contributes to each response."""
        return {
            "digest": self.info.base_digest,
            "prompt": self.info.prompt_version,
            "engine": self.info.engine,
            "settings": content_digest(dict(self.settings)),
        }


async def run_shard(
    options: EvalOptions, shard: EvalShard, server: ShardServer, cache: ResponseCache, out: Output
) -> ShardResult:
    """Run a shard on its server.

    Args:
        options: Options of the evaluation.
        shard: Users, pool and seed.
        server: The running server.
        cache: Responses that are known already.
        out: Shows progress.

    Raises:
        EvaluationError: The evaluation cannot go on.
        ProcessFailed: A trainer ended too early.
        MindprintError: A request failed.
    """
    builder = AdapterBuilder(options, out, server.client, server.cluster, shard.seed)
    scope = CacheScope(shard.histories, server.base)
    executor = RequestExecutor(server.client, out, cache, scope, shard.seed, options.in_flight)
    return await ShardRunner(options, shard, builder, executor).run()


class ShardRunner:
    """Runs a shard: training sets, adapters, then the questions of each arm."""

    def __init__(
        self, options: EvalOptions, shard: EvalShard, builder: AdapterBuilder, executor: RequestExecutor
    ) -> None:
        self._options, self._shard = options, shard
        self._builder, self._executor = builder, executor
        self._others = find_other_users(shard.users, shard.seed)
        self._arms = [ARMS[name] for name in options.arms]
        self._adapters: dict[tuple[str, str], BuiltAdapter] = {}
        self._training_sets: dict[str, dict[str, list[ImportedTrace]]] = {}
        self.result = ShardResult()

    async def run(self) -> ShardResult:
        """Run all steps, and return what was measured."""
        await self._builder.upload_engagements(self._shard.all_users)
        wanted = recipes_for(self._arms)
        await self._prepare_training_sets(
            {recipe.training_set for recipe in wanted}, pool={r.training_set for r in wanted if r.pooled}
        )
        for recipe in wanted:
            await self._build_adapters(recipe)
        for arm in self._arms:
            await self._ask_arm(arm)
        await self._ask_rationales()
        return self.result

    # --- training_set and adapters ---

    async def _prepare_training_sets(self, wanted: set[str], pool: set[str]) -> None:
        """Generate traces and choose the training sets `wanted`; those in `pool` for the users of the pool too.

        Selected traces come first: the server looks for nearest users, and copies of users for hinted traces would be
        found as well.
        """
        users = self._shard.users
        if wanted & {"selected", "shuffled"}:
            written = await self._builder.generate_traces("traces, selected", [user.user_id for user in users])
            chosen = {
                user.user_id: training_sets.select_accepted(_of(written, user.user_id), self._options.thresholds)
                for user in users
            }
            self._training_sets["selected"] = chosen
            self._training_sets["shuffled"] = {
                user: training_sets.shuffle_thinking(training_set, f"{self._shard.seed}/{user}")
                for user, training_set in chosen.items()
            }
            self._record_candidates("selected", written, chosen)
            if "selected" in pool:
                self._training_sets["selected"] = chosen | await self._selected_of_pool()
        if "hinted" in wanted:
            copies = {
                user.user_id: await self._builder.upload_copy(user, f"{user.user_id[:48]}.writer") for user in users
            }
            written = await self._builder.generate_traces(
                "traces, hinted", list(copies.values()), unhinted=0, hints=True
            )
            by_user = {name: _of(written, copy) for name, copy in copies.items()}
            right = await self._answered_directly(by_user)
            chosen = {name: training_sets.select_hinted(by_user[name], right[name]) for name in copies}
            self._training_sets["hinted"] = chosen
            back = [t.model_copy(update={"user_id": name}) for name, traces in by_user.items() for t in traces]
            self._record_candidates("distilled", back, chosen)

    async def _selected_of_pool(self) -> dict[str, list[ImportedTrace]]:
        pool = [user.user_id for user in self._shard.pool]
        written = await self._builder.generate_traces("traces, selected, of the pool", pool) if pool else []
        return {user: training_sets.select_accepted(_of(written, user), self._options.thresholds) for user in pool}

    async def _answered_directly(self, candidates: Mapping[str, Sequence[Trace]]) -> dict[str, dict[str, bool]]:
        """Return whether the base model answers each engagement rightly without thinking, by user and engagement."""
        asked = []
        for user in self._shard.users:
            written = {trace.engagement_id for trace in candidates[user.user_id]}
            for e in user.engagements:
                if e.id in written and e.choices:
                    row = HeldOutQuestion(e.id, e.prompt, e.choices, e.response, e.occurred_at)
                    asked.append(
                        build_request("answer", ARMS["A1"], user.user_id, row, "base", None, "own", temperature=0.0)
                    )
        found: dict[str, dict[str, bool]] = {user.user_id: {} for user in self._shard.users}
        for outcome in await self._executor.execute("engagements, answered at once", asked):
            found[outcome.user][outcome.item] = bool(outcome.right)
        return found

    def _record_candidates(
        self, recipe: str, written: Sequence[Trace], chosen: Mapping[str, Sequence[ImportedTrace]]
    ) -> None:
        used = {
            (user, one.engagement_id, one.thinking)
            for user, training_set in chosen.items()
            for one in training_set
            if one.selected
        }
        self.result.candidates += [
            training_sets.candidate_row(t, self._shard.seed, recipe, (t.user_id, t.engagement_id, t.thinking) in used)
            for t in written
        ]

    async def _build_adapters(self, recipe: Recipe) -> None:
        training_set = self._training_sets.get(recipe.training_set, {})
        if recipe.pooled:
            made = {POOL: await self._builder.build_pooled_adapter(recipe, self._shard.pool, training_set)}
        else:
            after = self._adapters[recipe.start_from, POOL] if recipe.start_from else None
            made = await self._builder.build_user_adapters(recipe, self._shard.users, training_set, after)
        for user, one in made.items():
            self._adapters[recipe.name, user] = one
            self.result.adapters.append(one.row(recipe.name, self._shard.seed, user))

    def _adapter_of(self, arm: Arm, user: str) -> BuiltAdapter:
        """Return the adapter that answers for a user in an arm."""
        if arm.recipe is None:
            return BASE
        if RECIPES[arm.recipe].pooled:
            return self._adapters[arm.recipe, POOL]
        whose = user if arm.adapter_of == "own" else self._others[user].get(arm.adapter_of)
        return (
            self._adapters[arm.recipe, whose]
            if whose
            else BuiltAdapter(None, None, "no_adapter", "there is no other user")
        )

    # --- questions ---

    async def _ask_arm(self, arm: Arm) -> None:
        """Ask for the arm's own answers, then for all else that is measured of it."""
        asked: list[EvalRequest] = []
        for user in self._shard.users:
            if not user.held_out:
                self.result.outcomes.append(
                    skipped_outcome(arm, user.user_id, None, self._shard.seed, "failed", "no held-out questions")
                )
            for row in user.held_out:
                asked += self._answer_request(arm, user.user_id, row)
        answers = await self._executor.execute(arm.name, asked)
        self.result.outcomes += answers
        rows = [question for question in asked if question.measure == "answer"]
        more = self._bare(arm, rows) + self._changed(arm, rows, answers) + self._reversed(arm, rows)
        more += self._general(arm)
        self.result.outcomes += await self._executor.execute(
            f"{arm.name}, its thinking, order of choices and general questions", more
        )

    def _answer_request(self, arm: Arm, user: str, row: HeldOutQuestion) -> list[EvalRequest]:
        made, memory = self._adapter_of(arm, user), memory_param(arm.memory, self._others[user])
        if made.model is None or memory is None:
            outcome, why = ("no_adapter", "there is no other user") if made.model else (made.outcome, made.why)
            self.result.outcomes.append(skipped_outcome(arm, user, row, self._shard.seed, outcome, why))
            return []
        return [build_request("answer", arm, user, row, made.model, made.digest, memory, **greedy_params())]

    def _bare(self, arm: Arm, answered: Sequence[EvalRequest]) -> list[EvalRequest]:
        if arm.name not in arms.BARE_THINKING_ARMS:
            return []
        return [self._vary("bare", one, **bare_thinking_params(one.row)) for one in answered]

    def _changed(self, arm: Arm, answered: Sequence[EvalRequest], answers: Sequence[Outcome]) -> list[EvalRequest]:
        if arm.name not in arms.PERTURBED_ARMS:
            return []
        questions = {(one.user, one.row.id): one for one in answered}
        return [
            self._vary(measure, questions[answer.user, answer.item], thinking=thinking)
            for user in self._shard.users
            for measure, answer, thinking in perturb_thinking([a for a in answers if a.user == user.user_id])
        ]

    def _reversed(self, arm: Arm, answered: Sequence[EvalRequest]) -> list[EvalRequest]:
        """Return the closed questions with their choices in reverse order."""
        if arm.name not in arms.REVERSED_ARMS:
            return []
        turned = [replace(one, row=row) for one in answered if (row := reverse_choices(one.row))]
        return [self._vary("reversed", one, **greedy_params()) for one in turned]

    def _vary(self, measure: Any, one: EvalRequest, **how: Any) -> EvalRequest:
        arm, request = ARMS[one.arm], one.request
        return build_request(measure, arm, one.user, one.row, request.model, one.digest, request.memory, **how)

    def _general(self, arm: Arm) -> list[EvalRequest]:
        """Return the general questions, once for each adapter. The base model and the pooled one serve all users."""
        if arm.name not in arms.GENERAL_QUESTION_ARMS:
            return []
        asked = []
        shared = arm.recipe is None or RECIPES[arm.recipe].pooled
        for user in self._shard.users[: 1 if shared else None]:
            made = self._adapter_of(arm, user.user_id)
            if made.model is None or not user.held_out:
                continue
            for row in general_questions(user.held_out[0], self._options.general):
                how: dict[str, Any] = {"show_choices": False, "temperature": 0.0}
                asked.append(build_request("general", arm, user.user_id, row, made.model, made.digest, "none", **how))
        return asked

    async def _ask_rationales(self) -> None:
        """Measure how close selected traces come to reasons that the users wrote."""
        training_set = self._training_sets.get("selected", {})
        rationales = [
            about
            for user in self._shard.users
            for about in human_rationales.collect_rationales(user, training_set.get(user.user_id, []))
        ]
        generic = await self._executor.execute(
            "generic thinking about reasons", [human_rationales.generic_thinking_request(one) for one in rationales]
        )
        questions = human_rationales.rationale_requests(rationales, generic)
        self.result.outcomes += await self._executor.execute("written reasons", questions)
        if rationales and self._options.embeddings is not None:
            embed = partial(embedding_similarity.embed_texts, self._options.embeddings)
            self.result.outcomes += await asyncio.to_thread(
                embedding_similarity.similarity_outcomes, rationales, generic, self._shard.seed, embed
            )


def recipes_for(asked: Sequence[Arm]) -> list[Recipe]:
    """Return the recipes of these arms, each once, after the recipe that it starts from."""
    found: dict[str, Recipe] = {}
    for arm in asked:
        if arm.recipe:
            recipe = RECIPES[arm.recipe]
            before = [RECIPES[recipe.start_from]] if recipe.start_from else []
            found |= {one.name: one for one in (*before, recipe) if one.name not in found}
    return list(found.values())


def _of(traces: Sequence[Trace], user: str) -> list[Trace]:
    return [trace for trace in traces if trace.user_id == user]
