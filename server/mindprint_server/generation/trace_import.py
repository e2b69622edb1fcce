"""Takes thinking that somebody brings, curated or written elsewhere: it waits for a trainer as what is written here."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from mindprint.types import ImportedTrace, Ingested, Provenance, Trace
from mindprint_server.admission import AdmissionController
from mindprint_server.context import ServerContext
from mindprint_server.engine import PromptTooLong
from mindprint_server.exceptions import ApiError, not_found
from mindprint_server.generation import params
from mindprint_server.memory import MemoryService, UserHistory
from mindprint_server.memory.questions import QuestionBuilder
from mindprint_server.prompts import thinking
from mindprint_server.prompts.builder import PromptBuilder
from mindprint_server.prompts.templates import PROMPT_VERSION, ends_early
from mindprint_server.prompts.types import Prompt, Question
from mindprint_server.store import NotFound, new_id
from mindprint_server.verdicts import checks


class TraceImporter:
    def __init__(
        self,
        ctx: ServerContext,
        *,
        prompts: PromptBuilder,
        questions: QuestionBuilder,
        memory: MemoryService,
        admission: AdmissionController,
    ) -> None:
        self._settings = ctx.settings
        self._store = ctx.store
        self._engine = ctx.engine
        self._prompts = prompts
        self._questions = questions
        self._memory = memory
        self._metrics = ctx.metrics
        self._admission = admission

    async def take(self, user_id: str, given: Sequence[ImportedTrace]) -> Ingested:
        """`POST /v1/users/{id}/traces`: all or none. Profiles that are due are written first, as before a batch.

        Raises NotFound (user), ApiError (404, 422, 429), BacklogFull, TimeoutError.
        """
        with self._admission.enter():
            async with asyncio.timeout(self._settings.request_timeout_s):
                await self._store.users.get(user_id)
                await self._memory.ensure_profiles(user_id)
                timeline = await self._memory.timeline(user_id)
                traces = []
                for place, one in enumerate(given):
                    traces.append(await self._trace(user_id, one, f"traces[{place}]", timeline))
                    await asyncio.sleep(0)  # a thousand prompts are built one after the other: others come between
            done = await self._store.traces.add_imported(
                user_id, traces, fingerprint=checks.fingerprint, max_waiting=self._settings.max_backlog
            )
        self._metrics.given.inc(done.created)
        return done

    async def _trace(self, user_id: str, given: ImportedTrace, where: str, timeline: UserHistory) -> Trace:
        thought = self._thought(given.thinking, f"{where}.thinking")
        tokens = len(self._engine.tokenizer.encode(thought))
        try:
            question = await self._questions.for_engagement(user_id, given.engagement_id, timeline)
        except NotFound as error:
            raise not_found(error, f"{where}.engagement_id") from error
        room = max(tokens, self._settings.max_thinking_tokens)
        try:
            prompt = self._prompts.build(question, "personal", thinking_tokens=room)
        except PromptTooLong as error:
            message = (
                f"{where}: query and thinking do not fit the model together: shorten the thinking, or leave it out"
            )
            raise ApiError(422, "prompt_too_long", message, param=where) from error
        assert question.target is not None
        return Trace(
            id=new_id(),
            user_id=user_id,
            engagement_id=given.engagement_id,
            mode="personal",
            query=question.query,
            prompt=prompt.text,
            thinking=thought,
            answer=question.target,
            verdict="accepted" if given.selected else "rejected",
            reason=None if given.selected else "not_selected",
            scores=given.scores,
            state="waiting" if given.selected else "kept",
            prompt_tokens=len(prompt.ids),
            thinking_tokens=tokens,
            provenance=self._provenance(given, thought, question, prompt),
            created_at=datetime.now(UTC),
        )

    def _thought(self, text: str, where: str) -> str:
        special = self._engine.tokenizer.special
        if ends_early(text, special):
            message = f"{where}: holds a tag or a special token, which would end the thinking: remove it"
            raise ApiError(422, "validation_error", message, param=where)
        if not (thought := self._prompts.clean(text)):
            raise ApiError(422, "validation_error", f"{where}: is blank: write the thinking there", param=where)
        return thought

    def _provenance(self, given: ImportedTrace, thought: str, question: Question, prompt: Prompt) -> Provenance:
        mode_opening = self._settings.openings.get("personal", "")
        begins = self._prompts.opening("personal", question.memory)
        opening = thinking.split(thought, begins)[0] or thinking.split(thought, mode_opening)[0]
        return Provenance(
            model="given",
            adapter_digest=None,
            base_digest=self._engine.info().base_digest,
            prompt_version=PROMPT_VERSION,
            mode="personal",
            sampling={**params.given_with(question, self._settings), "opening": opening},
            seed=None,
            engine=self._engine.info().name,
            saw_answer=given.saw_answer,
            memory_dropped=prompt.dropped,
            profile_version=question.profile_version,
        )
