"""Imports thinking that was curated or written elsewhere: it waits for a trainer as generated thinking does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from mindprint.types import ImportedTrace, Ingested, Trace
from mindprint_server.context import ServerContext
from mindprint_server.engine import PromptTooLong
from mindprint_server.exceptions import Invalid
from mindprint_server.generation.provenance import imported_provenance
from mindprint_server.memory import MemoryService, ProfileWriter, UserHistory
from mindprint_server.memory.questions import QuestionBuilder
from mindprint_server.prompts import thinking as thinking_text
from mindprint_server.prompts.builder import PromptBuilder
from mindprint_server.prompts.templates import ends_early
from mindprint_server.prompts.types import Prompt, Question
from mindprint_server.sharing.admission import AdmissionController
from mindprint_server.store import RecordNotFound, new_id
from mindprint_server.tenancy import current_tenant, erasure_epoch
from mindprint_server.verdicts import checks


class TraceImporter:
    """Turns imported thinking into stored traces."""

    def __init__(
        self,
        ctx: ServerContext,
        *,
        prompts: PromptBuilder,
        questions: QuestionBuilder,
        memory: MemoryService,
        profiles: ProfileWriter,
        admission: AdmissionController,
    ) -> None:
        self._ctx = ctx
        self._settings = ctx.settings
        self._store = ctx.store
        self._engine = ctx.engine
        self._metrics = ctx.metrics
        self._prompts = prompts
        self._questions = questions
        self._memory = memory
        self._profiles = profiles
        self._admission = admission

    async def import_traces(self, user_id: str, imported: Sequence[ImportedTrace]) -> Ingested:
        """Store the traces of `POST /v1/users/{id}/traces`, all or none.

        Profiles that are due are written first, as before a batch.

        Raises:
            RecordNotFound: The user or an engagement does not exist.
            Invalid: A thinking is blank, holds special text or is too long.
            LimitExceeded: Too many requests of the tenant wait already.
            BacklogFull: Too many accepted traces would wait for the adapter.
            TimeoutError: The turn of the tenant did not come within `request_timeout_s`, or it took longer.
        """
        async with self._admission.enter(max_wait_s=self._settings.request_timeout_s):
            async with asyncio.timeout(self._settings.request_timeout_s):
                await self._store.users.get(user_id)
                await self._profiles.ensure(user_id)
                epoch = erasure_epoch()
                history = await self._memory.read_history(user_id)
                traces = []
                for position, one in enumerate(imported):
                    traces.append(await self._trace(user_id, one, f"traces[{position}]", history))
                    await asyncio.sleep(0)  # building a thousand prompts must not block the other requests
            ingested = await self._store.traces.add_imported(
                user_id,
                traces,
                fingerprint=checks.fingerprint,
                max_waiting=self._settings.max_backlog,
                read_epoch=epoch,
            )
        self._metrics.imported.labels(tenant=current_tenant()).inc(ingested.created)
        return ingested

    async def _trace(self, user_id: str, imported: ImportedTrace, param: str, history: UserHistory) -> Trace:
        thinking = self._thinking(imported.thinking, f"{param}.thinking")
        tokens = len(self._engine.tokenizer.encode(thinking))
        try:
            question = await self._questions.for_engagement(user_id, imported.engagement_id, history)
        except RecordNotFound as error:
            raise RecordNotFound(error.kind, error.id, param=f"{param}.engagement_id") from error
        prompt = self._prompt(question, max(tokens, self._settings.max_thinking_tokens), param)
        assert question.target is not None
        return Trace(
            id=new_id(),
            user_id=user_id,
            engagement_id=imported.engagement_id,
            mode="personal",
            query=question.query,
            prompt=prompt.text,
            thinking=thinking,
            answer=question.target,
            verdict="accepted" if imported.selected else "rejected",
            reason=None if imported.selected else "not_selected",
            scores=imported.scores,
            state="waiting" if imported.selected else "stored",
            prompt_tokens=len(prompt.ids),
            thinking_tokens=tokens,
            provenance=imported_provenance(
                self._ctx,
                question,
                prompt,
                thinking_prefix=self._thinking_prefix(thinking, question),
                saw_answer=imported.saw_answer,
            ),
            created_at=datetime.now(UTC),
        )

    def _thinking(self, text: str, param: str) -> str:
        if ends_early(text, self._engine.tokenizer.special):
            message = f"{param}: holds a tag or a special token, which would end the thinking: remove it"
            raise Invalid("validation_error", message, param=param)
        if not (thinking := self._prompts.clean(text)):
            raise Invalid("validation_error", f"{param}: is blank: write the thinking there", param=param)
        return thinking

    def _prompt(self, question: Question, thinking_tokens: int, param: str) -> Prompt:
        try:
            return self._prompts.build(question, "personal", thinking_tokens=thinking_tokens)
        except PromptTooLong as error:
            message = (
                f"{param}: query and thinking do not fit the model together: shorten the thinking, or leave it out"
            )
            raise Invalid("prompt_too_long", message, param=param) from error

    def _thinking_prefix(self, thinking: str, question: Question) -> str:
        """Return this server's thinking prefix, with or without reminders, if the thinking begins with it; else ""."""
        with_reminders = self._prompts.thinking_prefix("personal", question.memory)
        bare = self._settings.thinking_prefixes.get("personal", "")
        return thinking_text.split(thinking, with_reminders)[0] or thinking_text.split(thinking, bare)[0]
