"""Writes one candidate: the mode's opening, thinking within its budget, a forced close, then the answer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from mindprint.types import Mode, Provenance, Trace, TraceRequest, TraceState, Verdict
from mindprint_server import labels, thinking, verdicts
from mindprint_server.adapters import AdapterLife
from mindprint_server.admission import Admission
from mindprint_server.engine import AdapterRef, Engine, Generation, Priority, PromptTooLong, Sampling
from mindprint_server.errors import ApiError
from mindprint_server.memory import Memory
from mindprint_server.metrics import Metrics
from mindprint_server.prompts import PROMPT_VERSION, Recollection, build, clean
from mindprint_server.settings import Settings
from mindprint_server.store import Store, new_id


@dataclass(frozen=True)
class Question:
    """What is asked on behalf of a user, with the memory that belongs to its time."""

    user_id: str
    query: str
    choices: tuple[str, ...] | None
    target: str | None
    memory: Recollection
    profile_version: int | None
    engagement_id: str | None = None


@dataclass(frozen=True)
class Style:
    """How a candidate is written."""

    mode: Mode
    opening: str
    max_thinking_tokens: int
    temperature: float
    seed: int | None
    judge: bool
    """Whether the candidate is for the queue: then hopeless ones end before the answer step."""
    batch_id: str | None = None
    priority: Priority = Priority.INTERACTIVE


class Writer:
    def __init__(
        self,
        settings: Settings,
        store: Store,
        engine: Engine,
        memory: Memory,
        adapters: AdapterLife,
        metrics: Metrics,
        admission: Admission,
        base_digest: str,
    ) -> None:
        self._settings = settings
        self._store = store
        self._engine = engine
        self._memory = memory
        self._adapters = adapters
        self._metrics = metrics
        self._admission = admission
        self._base_digest = base_digest

    # --- what is asked ---

    async def about(self, user_id: str, engagement_id: str) -> Question:
        """The question that a stored engagement poses to its own past."""
        engagement = await self._store.engagement(user_id, engagement_id)
        memory, version = await self._memory.recall(user_id, before=engagement.occurred_at, not_id=engagement_id)
        return Question(
            user_id=user_id,
            query=engagement.prompt,
            choices=tuple(engagement.choices) if engagement.choices else None,
            target=engagement.response,
            memory=memory,
            profile_version=version,
            engagement_id=engagement_id,
        )

    def opening(self, mode: Mode) -> str:
        return self._settings.openings.get(mode, "")

    def prompt(self, question: Question, mode: Mode, room: int) -> str:
        """The rendered prompt, with as much memory as leaves `room` tokens to write in: the oldest episodes go first,
        then the profile. Raises PromptTooLong when the query alone does not fit."""
        tokenizer = self._engine.tokenizer
        limit = self._engine.info().max_model_len - room
        memory: Recollection | None = question.memory
        while memory is not None:
            text = tokenizer.render(build(memory, question.query, question.choices, mode, tokenizer.special))
            if len(tokenizer.encode(text)) <= limit:
                return text
            memory = memory.without_oldest()
        raise PromptTooLong(f"the query alone leaves less than {room} of the model's tokens: shorten it")

    def room(self, max_thinking_tokens: int) -> int:
        """Tokens that a turn may take after the prompt, whatever the mode: all modes see the same memory."""
        return max_thinking_tokens + self._settings.max_answer_tokens + 64

    # --- one candidate ---

    async def draft(self, question: Question, style: Style, adapter: AdapterRef | None) -> Trace:
        """Writes and judges one candidate, unstored. Raises PromptTooLong, ValueError (choices that read alike)."""
        prompt = self.prompt(question, style.mode, self.room(style.max_thinking_tokens))
        tokenizer = self._engine.tokenizer
        prompt_ids = tokenizer.encode(prompt)
        thought, reason, written = "", None, None
        turn: list[int] = []
        if style.mode != "direct":
            written = await self._think(prompt_ids, style, adapter)
            thought = thinking.settle(style.opening, written.text, written.finish)
            reason = verdicts.of_thinking(
                thought, style.opening, written.finish, min_words=self._settings.min_thinking_words
            )
            turn = tokenizer.encode(thinking.wrap(thought))
        answer, logprobs, scores = "", None, {}
        if not (style.judge and reason):
            with self._metrics.engine_seconds.labels(call="answer").time():
                answer, logprobs, finish = await self._answer(question, prompt_ids + turn, style, adapter)
            if logprobs is not None and question.target is not None:
                scores["target_logprob"] = logprobs[question.target]
        else:
            finish = "abort"
        verdict, reason = self._verdict(question, style, reason, answer)
        state: TraceState = "waiting" if verdict == "accepted" and style.judge else "kept"
        self._metrics_of(written, verdict, reason, style)
        return Trace(
            id=new_id(),
            user_id=question.user_id,
            engagement_id=question.engagement_id,
            batch_id=style.batch_id,
            mode=style.mode,
            query=question.query,
            prompt=prompt,
            thinking=thought,
            answer=answer,
            choice_logprobs=logprobs,
            verdict=verdict,
            reason=reason,
            scores=scores,
            state=state,
            prompt_tokens=len(prompt_ids),
            cached_tokens=written.cached_tokens if written else 0,
            thinking_tokens=len(written.token_ids) if written else 0,
            finish=written.finish if written else finish,
            provenance=Provenance(
                model=adapter.name if adapter else "base",
                adapter_digest=adapter.digest if adapter else None,
                base_digest=self._base_digest,
                prompt_version=PROMPT_VERSION,
                mode=style.mode,
                sampling=dict(self._sampling(style).provenance(), opening=style.opening),
                seed=style.seed,
                engine=self._engine.info().name,
                saw_answer=False,
                profile_version=question.profile_version,
            ),
            created_at=datetime.now(UTC),
        )

    def _sampling(self, style: Style) -> Sampling:
        greedy = style.temperature == 0
        return Sampling(
            max_tokens=style.max_thinking_tokens,
            temperature=style.temperature,
            top_p=1.0 if greedy else self._settings.top_p,
            seed=None if greedy else style.seed,
            stop=(thinking.STOP,),
            detect_loops=True,
        )

    async def _think(self, prompt_ids: list[int], style: Style, adapter: AdapterRef | None) -> Generation:
        lead = self._engine.tokenizer.encode(thinking.lead(style.opening))
        with self._metrics.engine_seconds.labels(call="think").time():
            return await self._engine.generate(
                prompt_ids + lead, self._sampling(style), adapter=adapter, priority=style.priority
            )

    async def _answer(
        self, question: Question, prefix: list[int], style: Style, adapter: AdapterRef | None
    ) -> tuple[str, dict[str, float] | None, str]:
        tokenizer = self._engine.tokenizer
        if question.choices is None:
            sampling = Sampling(max_tokens=self._settings.max_answer_tokens, detect_loops=True)
            written = await self._engine.generate(prefix, sampling, adapter=adapter, priority=style.priority)
            return written.text.strip(), None, written.finish

        async def ask(path: tuple[int, ...], tokens: tuple[int, ...]) -> list[float]:
            return await self._engine.next_logprobs([*prefix, *path], tokens, adapter=adapter, priority=style.priority)

        ways = {choice: tokenizer.encode(clean(choice, tokenizer.special)) for choice in question.choices}
        scored = await labels.score(ways, tokenizer.eos_id, ask)
        return max(scored, key=lambda choice: scored[choice]), scored, "stop"

    def _verdict(
        self, question: Question, style: Style, reason: verdicts.Reason | None, answer: str
    ) -> tuple[Verdict, verdicts.Reason | None]:
        if reason is None and question.choices is not None and question.target is not None:
            reason = verdicts.of_answer(answer, question.target)
            return ("rejected" if reason else "accepted"), reason
        return ("rejected" if reason and style.judge else "unjudged"), reason

    def _metrics_of(
        self, written: Generation | None, verdict: Verdict, reason: verdicts.Reason | None, style: Style
    ) -> None:
        if written is not None:
            self._metrics.generated_tokens.inc(len(written.token_ids))
            self._metrics.prompt_tokens.inc(written.prompt_tokens)
            self._metrics.cached_tokens.inc(written.cached_tokens)
        if style.judge:
            self._metrics.generated.inc()
            if verdict == "accepted":
                self._metrics.accepted.inc()
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
        if request.engagement_id is not None:
            question = await self.about(request.user_id, request.engagement_id)
        else:
            await self._store.user(request.user_id)
            memory, version = await self._memory.recall(request.user_id, before=request.asked_at)
            question = Question(
                user_id=request.user_id,
                query=request.query or "",
                choices=tuple(request.choices) if request.choices else None,
                target=request.target,
                memory=memory,
                profile_version=version,
            )
        style = Style(
            mode=request.mode,
            opening=self.opening(request.mode) if request.opening is None else request.opening,
            max_thinking_tokens=request.max_thinking_tokens or self._settings.max_thinking_tokens,
            temperature=self._settings.temperature if request.temperature is None else request.temperature,
            seed=request.seed,
            judge=False,
        )
        stored = question.engagement_id is not None
        # Only the base model's own thinking may be trained on: an adapter that learned from itself would drift.
        if stored and request.model == "base" and request.mode == "personal":
            style = replace(style, judge=True)
        try:
            async with asyncio.timeout(self._settings.request_timeout_s), self._adapters.use(request.model) as adapter:
                trace = await self.draft(question, style, adapter)
        except PromptTooLong as error:
            raise ApiError(422, "prompt_too_long", str(error), param="query") from error
        except ValueError as error:
            raise ApiError(422, "choices_alike", str(error), param="choices") from error
        return await self._store.add_trace(trace) if stored else trace
