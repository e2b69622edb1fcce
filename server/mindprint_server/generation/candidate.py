"""Writes one candidate: the mode's opening, thinking within its budget, a forced close, then answer and verdict."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from mindprint.types import Provenance, Reason, Trace, TraceRequest, TraceState, VerdictLabel
from mindprint_server.adapters import AdapterService
from mindprint_server.adapters.health import outcome_of
from mindprint_server.admission import AdmissionController
from mindprint_server.auto_mode.service import AutoModeSelector
from mindprint_server.context import ServerContext
from mindprint_server.engine import AdapterRef, GenerationOutput, PromptTooLong, Sampling
from mindprint_server.exceptions import ApiError
from mindprint_server.generation import params
from mindprint_server.generation.params import GenerationParams
from mindprint_server.memory.questions import QuestionBuilder
from mindprint_server.prompts import thinking
from mindprint_server.prompts.builder import PromptBuilder
from mindprint_server.prompts.templates import PROMPT_VERSION, opening_without_reminders
from mindprint_server.prompts.types import Prompt, Question
from mindprint_server.store import new_id
from mindprint_server.verdicts import checks
from mindprint_server.verdicts.context import EngagementContext
from mindprint_server.verdicts.likelihood import Likelihood
from mindprint_server.verdicts.verifier import CandidateVerifier, Verdict


class Writer:
    def __init__(
        self,
        ctx: ServerContext,
        *,
        prompts: PromptBuilder,
        questions: QuestionBuilder,
        judge: CandidateVerifier,
        adapters: AdapterService,
        auto: AutoModeSelector,
        admission: AdmissionController,
    ) -> None:
        self._settings = ctx.settings
        self._store = ctx.store
        self._engine = ctx.engine
        self._prompts = prompts
        self._questions = questions
        self._judge = judge
        self._adapters = adapters
        self._auto = auto
        self._metrics = ctx.metrics
        self._admission = admission

    # --- one candidate ---

    async def draft(self, case: EngagementContext, style: GenerationParams) -> Trace:
        """Writes and judges one candidate, unstored. Raises PromptTooLong, ValueError (choices that read alike)."""
        question = case.question
        prompt = await self._judge.prompt(case, "self", style.mode)
        read = prompt
        if style.hinted:
            read = self._prompts.build(question, style.mode, thinking_tokens=case.thinking_tokens, hint=question.target)
        written, thought = None, style.given or ""
        if style.mode != "direct" and style.given is None:
            written = await self._think(case, read, style)
            thought = thinking.finalize_thinking(style.opening, written.text, written.finish)
        if style.judge:
            assert written is not None
            judged = await self._judge.hear(case, written, thought, style.opening, hinted=style.hinted)
            verdict: VerdictLabel = "rejected" if judged.reason else "accepted"
        else:
            judged = await self._answer(case, style, prompt, written, thought)
            verdict = "unjudged"
            if question.choices is not None and question.target is not None and judged.reason is None:
                verdict = "accepted" if judged.answer == question.target else "rejected"
        reason = judged.reason or ("wrong_answer" if verdict == "rejected" else None)
        self._count(written, verdict, reason, style)
        state: TraceState = "waiting" if verdict == "accepted" and style.judge else "kept"
        return Trace(
            id=new_id(),
            user_id=question.user_id,
            engagement_id=question.engagement_id,
            batch_id=style.batch_id,
            mode=style.mode,
            query=question.query,
            prompt=prompt.text,
            thinking=thought,
            answer=judged.answer,
            choice_logprobs=judged.choices,
            verdict=verdict,
            reason=reason,
            scores=judged.scores,
            state=state,
            prompt_tokens=len(read.ids),
            cached_tokens=written.cached_tokens if written else 0,
            thinking_tokens=len(written.token_ids if written else self._engine.tokenizer.encode(thought)),
            finish=written.finish if written else "stop",
            provenance=self._provenance(case, style, prompt),
            created_at=datetime.now(UTC),
        )

    def _provenance(self, case: EngagementContext, style: GenerationParams, prompt: Prompt) -> Provenance:
        return Provenance(
            model=case.adapter.name if case.adapter else "base",
            adapter_digest=case.adapter.digest if case.adapter else None,
            base_digest=self._engine.info().base_digest,
            prompt_version=PROMPT_VERSION,
            mode=style.mode,
            sampling=params.made_with(style, case.question, self._settings),
            seed=style.seed,
            engine=self._engine.info().name,
            saw_answer=style.hinted,
            profile_version=case.question.profile_version,
            memory_dropped=prompt.dropped,
            route=style.route,
        )

    async def _think(self, case: EngagementContext, prompt: Prompt, style: GenerationParams) -> GenerationOutput:
        lead = self._engine.tokenizer.encode(thinking.thinking_prefix(style.opening))
        with self._metrics.engine_seconds.labels(call="think").time():
            return await self._engine.generate(
                prompt.ids + lead,
                params.sampling(style, self._settings),
                adapter=case.adapter,
                priority=style.priority,
            )

    async def _answer(
        self,
        case: EngagementContext,
        style: GenerationParams,
        prompt: Prompt,
        written: GenerationOutput | None,
        thought: str,
    ) -> Verdict:
        """What is answered where nothing is queued: choices are scored, an open question is answered in words, and how
        likely the real answer is, if it is known, is scored as well."""
        reason: Reason | None = None
        if style.mode != "direct":
            finish = written.finish if written else "stop"
            # An opening that was learned says as little as one that was given.
            mode_opening = self._settings.openings.get(style.mode, "")
            counts_nothing = opening_without_reminders(style.opening, mode_opening) or mode_opening
            s = self._settings
            reason = checks.of_thinking(
                thought, counts_nothing, finish, min_words=s.min_thinking_words, answer_lead=s.answer_lead
            )
        question = case.question
        scores: dict[str, float] = {}
        answer, choices = "", None
        with self._metrics.engine_seconds.labels(call="answer").time():
            if question.choices is None:
                answer = await self._say(case, style, prompt, thought)
            # Of an answer that reads as nothing there is nothing to score.
            if question.choices is not None or self._prompts.clean(question.target or ""):
                how = await self._likelihood(case, style, thought)
                choices = how.choices
                if how.target is not None:
                    scores = {"target_logprob": how.target, "target_tokens": how.tokens}
        if choices is not None:
            answer = max(choices, key=choices.__getitem__)
        return Verdict(answer, choices, reason, scores)

    async def _say(self, case: EngagementContext, style: GenerationParams, prompt: Prompt, thought: str) -> str:
        turn = "" if style.mode == "direct" else thinking.render_thinking(thought, self._settings.answer_lead)
        answered = await self._engine.generate(
            prompt.ids + self._engine.tokenizer.encode(turn),
            Sampling(max_tokens=self._settings.max_answer_tokens, detect_loops=True),
            adapter=case.adapter,
            priority=case.priority,
        )
        return answered.text.strip()

    async def _likelihood(self, case: EngagementContext, style: GenerationParams, thought: str) -> Likelihood:
        if style.mode == "direct":
            return await self._judge.prior(case, "self")
        return await self._judge.after(case, "self", style.mode, thought)

    def _count(
        self, written: GenerationOutput | None, verdict: VerdictLabel, reason: str | None, style: GenerationParams
    ) -> None:
        if written is not None:
            self._metrics.generated_tokens.inc(len(written.token_ids))
            self._metrics.prompt_tokens.inc(written.prompt_tokens)
            self._metrics.cached_tokens.inc(written.cached_tokens)
        if style.judge:
            self._metrics.generated.inc()
            if verdict == "accepted":
                self._metrics.accepted.labels(hinted=str(style.hinted).lower()).inc()
            else:
                self._metrics.rejected.labels(reason=reason or "unjudged").inc()

    # --- one trace now ---

    async def write_one(self, request: TraceRequest) -> Trace:
        """`POST /v1/traces`. A trace about a stored engagement is judged and stored; one about a query is returned.

        Raises ApiError (422, 429), NotFound, TimeoutError.
        """
        with self._admission.enter():
            return await self._write_one(request)

    async def _write_one(self, request: TraceRequest) -> Trace:
        question = await self._questions.for_request(request)
        try:
            async with asyncio.timeout(self._settings.request_timeout_s), self._adapters.use(request.model) as adapter:
                style = await self._style(request, question, adapter)
                accepted = await self.accepted(request.user_id) if style.judge else set()
                case = EngagementContext(question, style.max_thinking_tokens, adapter, style.priority, accepted)
                trace = await self.draft(case, style)
                if _tells_of_service(request, style):
                    await self._adapters.heard(adapter, outcome_of(trace.reason))
        except PromptTooLong as error:
            if request.thinking is None:
                raise ApiError(422, "prompt_too_long", str(error), param="query") from error
            message = "query and thinking do not fit the model together: shorten them"
            raise ApiError(422, "prompt_too_long", message, param="thinking") from error
        except ValueError as error:
            raise ApiError(422, "choices_alike", str(error), param="choices") from error
        return await self._store.traces.add(trace) if question.engagement_id is not None else trace

    async def _style(self, request: TraceRequest, question: Question, adapter: AdapterRef | None) -> GenerationParams:
        s = self._settings
        mode, route = await self._auto.select(request.mode, request.user_id, adapter, question.kind)
        given = None if request.thinking is None else self._prompts.clean(request.thinking)
        budget = request.max_thinking_tokens or s.max_thinking_tokens
        if given is not None:  # a longer one takes the room that it needs, at the cost of the memory
            budget = max(budget, len(self._engine.tokenizer.encode(given)))
        return GenerationParams(
            mode=mode,
            opening=self._prompts.opening(mode, question.memory) if request.opening is None else request.opening,
            max_thinking_tokens=budget,
            temperature=s.temperature if request.temperature is None else request.temperature,
            seed=request.seed,
            # Only the base model's own thinking may be trained on: an adapter that learned from itself would drift.
            judge=request.engagement_id is not None and request.model == "base" and mode == "personal",
            given=given,
            route=route,
        )

    async def accepted(self, user_id: str) -> set[str]:
        """Fingerprints of a user's accepted thinking."""
        return {checks.fingerprint(text) for text in await self._store.traces.list_accepted_texts(user_id)}


def _tells_of_service(request: TraceRequest, style: GenerationParams) -> bool:
    """Whether an answer says how a version does in service: where the thinking is its own, under its user's memory."""
    return style.mode != "direct" and request.thinking is None and request.memory == "own"
