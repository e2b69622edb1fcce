"""One piece of an evaluation: a group of users with one seed, from their histories to the outcomes of all arms.

A piece has a server and a store of its own, and can be killed at any moment: what was written, trained or answered by
then is taken up again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    skipped_outcome,
)
from mindprint_eval.response_cache import ResponseCache, content_digest
from mindprint_eval.results import Outcome

POOL = "pool"
"""Whose adapter the pooled one is listed as."""
BASE = BuiltAdapter("base", None, "live", "")


@dataclass(frozen=True)
class EvalShard:
    """Users who are asked, users whose answers train the pooled adapter, and the seed."""

    users: list[UserDataset]
    pool: list[UserDataset]
    seed: int

    @property
    def everybody(self) -> list[UserDataset]:
        return [*self.users, *self.pool]

    @property
    def histories(self) -> dict[str, str]:
        """Digests, by user."""
        return {
            user.user_id: content_digest([engagement.model_dump(mode="json") for engagement in user.engagements])
            for user in self.everybody
        }


@dataclass
class ShardResult:
    """What came of a piece."""

    outcomes: list[Outcome] = field(default_factory=list)
    candidates: list[dict[str, Any]] = field(default_factory=list)
    adapters: list[dict[str, Any]] = field(default_factory=list)


class ShardRunner:
    """A piece on its server."""

    def __init__(
        self,
        options: EvalOptions,
        out: Output,
        client: AsyncMindprintClient,
        cluster: LocalCluster,
        book: ResponseCache,
        piece: EvalShard,
        info: ServerInfo,
        settings: Mapping[str, str],
    ) -> None:
        self._options, self._piece = options, piece
        self._maker = AdapterBuilder(options, out, client, cluster, piece.seed)
        base = {
            "digest": info.base_digest,
            "prompt": info.prompt_version,
            "engine": info.engine,
            "settings": content_digest(dict(settings)),
        }
        self._executor = RequestExecutor(
            client, out, book, CacheScope(piece.histories, base), piece.seed, options.in_flight
        )
        self._others = find_other_users(piece.users, piece.seed)
        self._arms = [ARMS[name] for name in options.arms]
        self._made: dict[tuple[str, str], BuiltAdapter] = {}
        self._lessons: dict[str, dict[str, list[ImportedTrace]]] = {}
        self.found = ShardResult()

    async def run(self) -> ShardResult:
        """Raises CannotEvaluate, ProcessFailed, MindprintError."""
        await self._maker.ingest(self._piece.everybody)
        wanted = recipes_for(self._arms)
        await self._teach({recipe.lessons for recipe in wanted}, pool={r.lessons for r in wanted if r.pooled})
        for recipe in wanted:
            await self._make(recipe)
        for arm in self._arms:
            await self._ask(arm)
        await self._reasons()
        return self.found

    # --- lessons and adapters ---

    async def _teach(self, wanted: set[str], pool: set[str]) -> None:
        """Writes the traces, `pool`: of the pool's users too. Whoever is the nearest other user is looked up while no
        user has a twin yet."""
        users = self._piece.users
        if wanted & {"selected", "shuffled"}:
            written = await self._maker.write("traces, selected", [user.user_id for user in users])
            chosen = {
                user.user_id: training_sets.select_accepted(_of(written, user.user_id), self._options.thresholds)
                for user in users
            }
            self._lessons["selected"] = chosen
            self._lessons["shuffled"] = {
                user: training_sets.shuffle_thinking(lessons, f"{self._piece.seed}/{user}")
                for user, lessons in chosen.items()
            }
            self._note("selected", written, chosen)
            if "selected" in pool:
                self._lessons["selected"] = chosen | await self._selected_of_pool()
        if "hinted" in wanted:
            twins = {user.user_id: await self._maker.twin(user, f"{user.user_id[:48]}.writer") for user in users}
            written = await self._maker.write("traces, hinted", list(twins.values()), blind=0, hints=True)
            by_user = {name: _of(written, twin) for name, twin in twins.items()}
            right = await self._right_at_once(by_user)
            chosen = {name: training_sets.select_hinted(by_user[name], right[name]) for name in twins}
            self._lessons["hinted"] = chosen
            back = [t.model_copy(update={"user_id": name}) for name, traces in by_user.items() for t in traces]
            self._note("distilled", back, chosen)

    async def _selected_of_pool(self) -> dict[str, list[ImportedTrace]]:
        pool = [user.user_id for user in self._piece.pool]
        written = await self._maker.write("traces, selected, of the pool", pool) if pool else []
        return {user: training_sets.select_accepted(_of(written, user), self._options.thresholds) for user in pool}

    async def _right_at_once(self, candidates: Mapping[str, Sequence[Trace]]) -> dict[str, dict[str, bool]]:
        """Whether the base answers these engagements rightly without thinking, by user and engagement."""
        asked = []
        for user in self._piece.users:
            written = {trace.engagement_id for trace in candidates[user.user_id]}
            for e in user.engagements:
                if e.id in written and e.choices:
                    row = HeldOutQuestion(e.id, e.prompt, e.choices, e.response, e.occurred_at)
                    asked.append(
                        build_request("answer", ARMS["A1"], user.user_id, row, "base", None, "own", temperature=0.0)
                    )
        found: dict[str, dict[str, bool]] = {user.user_id: {} for user in self._piece.users}
        for outcome in await self._executor.execute("engagements, answered at once", asked):
            found[outcome.user][outcome.item] = bool(outcome.right)
        return found

    def _note(self, recipe: str, written: Sequence[Trace], chosen: Mapping[str, Sequence[ImportedTrace]]) -> None:
        used = {
            (user, one.engagement_id, one.thinking)
            for user, lessons in chosen.items()
            for one in lessons
            if one.selected
        }
        self.found.candidates += [
            training_sets.candidate_row(t, self._piece.seed, recipe, (t.user_id, t.engagement_id, t.thinking) in used)
            for t in written
        ]

    async def _make(self, recipe: Recipe) -> None:
        lessons = self._lessons.get(recipe.lessons, {})
        if recipe.pooled:
            made = {POOL: await self._maker.pooled(recipe, self._piece.pool, lessons)}
        else:
            after = self._made[recipe.after, POOL] if recipe.after else None
            made = await self._maker.adapters(recipe, self._piece.users, lessons, after)
        for user, one in made.items():
            self._made[recipe.name, user] = one
            self.found.adapters.append(one.row(recipe.name, self._piece.seed, user))

    def _of(self, arm: Arm, user: str) -> BuiltAdapter:
        """The adapter that answers for a user in an arm."""
        if arm.recipe is None:
            return BASE
        if RECIPES[arm.recipe].pooled:
            return self._made[arm.recipe, POOL]
        whose = user if arm.adapter_of == "own" else self._others[user].get(arm.adapter_of)
        return (
            self._made[arm.recipe, whose] if whose else BuiltAdapter(None, None, "no_adapter", "there is no other user")
        )

    # --- questions ---

    async def _ask(self, arm: Arm) -> None:
        """The arm's own answers, then whatever else is measured of it."""
        asked: list[EvalRequest] = []
        for user in self._piece.users:
            if not user.held_out:
                self.found.outcomes.append(
                    skipped_outcome(arm, user.user_id, None, self._piece.seed, "failed", "no held-out questions")
                )
            for row in user.held_out:
                asked += self._question(arm, user.user_id, row)
        answers = await self._executor.execute(arm.name, asked)
        self.found.outcomes += answers
        rows = [question for question in asked if question.measure == "answer"]
        more = self._bare(arm, rows) + self._changed(arm, rows, answers) + self._general(arm)
        self.found.outcomes += await self._executor.execute(f"{arm.name}, its thinking and general questions", more)

    def _question(self, arm: Arm, user: str, row: HeldOutQuestion) -> list[EvalRequest]:
        made, memory = self._of(arm, user), memory_param(arm.memory, self._others[user])
        if made.model is None or memory is None:
            outcome, why = ("no_adapter", "there is no other user") if made.model else (made.outcome, made.why)
            self.found.outcomes.append(skipped_outcome(arm, user, row, self._piece.seed, outcome, why))
            return []
        return [build_request("answer", arm, user, row, made.model, made.digest, memory, **greedy_params())]

    def _bare(self, arm: Arm, answered: Sequence[EvalRequest]) -> list[EvalRequest]:
        if arm.name not in arms.BARE_THINKING_ARMS:
            return []
        return [self._again("bare", one, **bare_thinking_params(one.row)) for one in answered]

    def _changed(self, arm: Arm, answered: Sequence[EvalRequest], answers: Sequence[Outcome]) -> list[EvalRequest]:
        if arm.name not in arms.PERTURBED_ARMS:
            return []
        questions = {(one.user, one.row.id): one for one in answered}
        return [
            self._again(measure, questions[answer.user, answer.item], thinking=thinking)
            for user in self._piece.users
            for measure, answer, thinking in perturb_thinking([a for a in answers if a.user == user.user_id])
        ]

    def _again(self, measure: Any, one: EvalRequest, **how: Any) -> EvalRequest:
        arm, request = ARMS[one.arm], one.request
        return build_request(measure, arm, one.user, one.row, request.model, one.digest, request.memory, **how)

    def _general(self, arm: Arm) -> list[EvalRequest]:
        """Once for each adapter; the base's and the pooled one's answers are the same for every user."""
        if arm.name not in arms.GENERAL_QUESTION_ARMS:
            return []
        asked = []
        shared = arm.recipe is None or RECIPES[arm.recipe].pooled
        for user in self._piece.users[: 1 if shared else None]:
            made = self._of(arm, user.user_id)
            if made.model is None or not user.held_out:
                continue
            for row in general_questions(user.held_out[0], self._options.general):
                how: dict[str, Any] = {"show_choices": False, "temperature": 0.0}
                asked.append(build_request("general", arm, user.user_id, row, made.model, made.digest, "none", **how))
        return asked

    async def _reasons(self) -> None:
        """How close the selected traces come to what the users wrote themselves."""
        lessons = self._lessons.get("selected", {})
        told = [
            about
            for user in self._piece.users
            for about in human_rationales.collect_rationales(user, lessons.get(user.user_id, []))
        ]
        generic = await self._executor.execute(
            "generic thinking about reasons", [human_rationales.generic_thinking_request(one) for one in told]
        )
        questions = human_rationales.rationale_requests(told, generic)
        self.found.outcomes += await self._executor.execute("written reasons", questions)
        if told and self._options.embeddings is not None:
            embed = partial(embedding_similarity.embed_texts, self._options.embeddings)
            self.found.outcomes += await asyncio.to_thread(
                embedding_similarity.similarity_outcomes, told, generic, self._piece.seed, embed
            )


def recipes_for(asked: Sequence[Arm]) -> list[Recipe]:
    """The recipes of these arms, each once and behind the one that it starts from."""
    found: dict[str, Recipe] = {}
    for arm in asked:
        if arm.recipe:
            recipe = RECIPES[arm.recipe]
            before = [RECIPES[recipe.after]] if recipe.after else []
            found |= {one.name: one for one in (*before, recipe) if one.name not in found}
    return list(found.values())


def _of(traces: Sequence[Trace], user: str) -> list[Trace]:
    return [trace for trace in traces if trace.user_id == user]
