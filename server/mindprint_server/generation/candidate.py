"""Generates one candidate.

Its parts are the mode's thinking prefix, thinking within its budget, a forced close, the answer, and the verdict.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from mindprint.types import Reason, Trace, TraceState, VerdictLabel
from mindprint_server.context import ServerContext
from mindprint_server.engine import GenerationOutput
from mindprint_server.engine.sampling import create_sampling
from mindprint_server.generation.params import GenerationParams, thinking_sampling
from mindprint_server.generation.provenance import generated_provenance
from mindprint_server.prompts import thinking as thinking_text
from mindprint_server.prompts.builder import PromptBuilder
from mindprint_server.prompts.turns import TurnWriter
from mindprint_server.prompts.types import Prompt
from mindprint_server.store import new_id
from mindprint_server.tenancy import current_tenant
from mindprint_server.verdicts import checks
from mindprint_server.verdicts.checks import ThinkingChecker
from mindprint_server.verdicts.context import EngagementContext
from mindprint_server.verdicts.likelihood import Likelihood, likeliest
from mindprint_server.verdicts.verifier import CandidateVerifier, Verdict


@dataclass(frozen=True)
class Candidate:
    """A generated trace that is not stored yet, with its verdict."""

    trace: Trace
    verdict: Verdict


class CandidateGenerator:
    """Generates candidates with the engine and has those for training verified."""

    def __init__(
        self,
        ctx: ServerContext,
        *,
        prompts: PromptBuilder,
        verifier: CandidateVerifier,
    ) -> None:
        self._ctx = ctx
        self._settings = ctx.settings
        self._engine = ctx.engine
        self._metrics = ctx.metrics
        self._prompts = prompts
        self._verifier = verifier
        self._checker = ThinkingChecker(ctx.settings)
        self._turns = TurnWriter(ctx.engine.tokenizer)

    async def generate(self, context: EngagementContext, params: GenerationParams) -> Candidate:
        """Generate one candidate and its answer; store nothing.

        Args:
            context: The engagement; its adapter generates.
            params: How to generate, and whether to verify the candidate for training.

        Raises:
            PromptTooLong: The query, or the query with the hint, does not fit the model.
            ValueError: Two choices have the same tokens, or one has none.
        """
        question = context.question
        prompt = await context.prompt(params.mode)
        shown = prompt
        if params.hinted:
            shown = self._prompts.build(
                question, params.mode, thinking_tokens=context.thinking_tokens, hint=question.target
            )
        output, thinking = None, params.given_thinking or ""
        if params.mode != "direct" and params.given_thinking is None:
            output = await self._think(context, shown, params)
            thinking = thinking_text.finalize_thinking(params.thinking_prefix, output.text, output.finish)
        if params.is_for_training:
            assert output is not None
            verdict = await self._verifier.verify(
                context, output, thinking=thinking, thinking_prefix=params.thinking_prefix, hinted=params.hinted
            )
        else:
            verdict = await self._answer(context, params, prompt, output, thinking)
        self._count(output, verdict, params)
        state: TraceState = "waiting" if verdict.label == "accepted" and params.is_for_training else "stored"
        trace = Trace(
            id=new_id(),
            user_id=question.user_id,
            engagement_id=question.engagement_id,
            batch_id=params.batch_id,
            mode=params.mode,
            query=question.query,
            prompt=prompt.text,
            thinking=thinking,
            answer=verdict.answer,
            choice_logprobs=verdict.choices,
            verdict=verdict.label,
            reason=verdict.reason,
            scores=verdict.scores,
            state=state,
            prompt_tokens=len(shown.ids),
            cached_tokens=output.cached_tokens if output else 0,
            thinking_tokens=len(output.token_ids if output else self._engine.tokenizer.encode(thinking)),
            finish=output.finish if output else "stop",
            provenance=generated_provenance(self._ctx, question, prompt, params, context.adapter),
            created_at=datetime.now(UTC),
        )
        return Candidate(trace, verdict)

    async def _think(self, context: EngagementContext, prompt: Prompt, params: GenerationParams) -> GenerationOutput:
        with self._metrics.engine_seconds.labels(call="think").time():
            return await self._engine.generate(
                self._turns.begin_thinking(prompt, params.thinking_prefix).ids,
                thinking_sampling(params, self._settings, self._turns.stop),
                adapter=context.adapter,
                priority=params.priority,
            )

    # --- the answer of a candidate that is not for training ---

    async def _answer(
        self,
        context: EngagementContext,
        params: GenerationParams,
        prompt: Prompt,
        output: GenerationOutput | None,
        thinking: str,
    ) -> Verdict:
        """Score the choices, or generate an open answer; a known real answer is scored as well."""
        question = context.question
        reason = self._check_thinking(params, output, thinking)
        answer, scored = "", None
        with self._metrics.engine_seconds.labels(call="answer").time():
            if question.choices is None:
                answer = await self._generate_answer(context, params, prompt, thinking)
            # An empty open answer has no tokens to score.
            if question.choices is not None or self._prompts.clean(question.target or ""):
                scored = await self._likelihood(context, params, thinking)
        choices = scored.choices if scored else None
        scores: dict[str, float] = {}
        if scored is not None and scored.target is not None:
            scores = {"target_logprob": scored.target, "target_tokens": scored.target_tokens}
        label: VerdictLabel = "unjudged"
        shortfall = None
        if choices is not None:
            answer = likeliest(choices)
            if question.target is not None:
                shortfall = checks.shortfall(choices, question.target)
                if reason is None:
                    label = "accepted" if answer == question.target else "rejected"
                    reason = None if label == "accepted" else "wrong_answer"
        return Verdict(label, answer, choices, reason, scores, shortfall)

    def _check_thinking(
        self, params: GenerationParams, output: GenerationOutput | None, thinking: str
    ) -> Reason | None:
        if params.mode == "direct":
            return None
        # An adapter may have learned to write the mode's prefix itself. Those words do not count as its own either.
        thinking_prefix = params.thinking_prefix or self._settings.thinking_prefixes.get(params.mode, "")
        finish = output.finish if output else "stop"
        return self._checker.check(thinking, thinking_prefix=thinking_prefix, mode=params.mode, finish=finish)

    async def _generate_answer(
        self, context: EngagementContext, params: GenerationParams, prompt: Prompt, thinking: str
    ) -> str:
        before = prompt
        if params.mode != "direct":
            before = self._turns.close_thinking(
                prompt,
                thinking,
                thinking_prefix=params.thinking_prefix,
                answer_prefix=self._settings.answer_prefix,
            )
        output = await self._engine.generate(
            before.ids,
            create_sampling(self._settings, max_tokens=self._settings.max_answer_tokens, temperature=0.0),
            adapter=context.adapter,
            priority=context.priority,
        )
        self._ctx.count_generated(len(output.token_ids))
        return output.text.strip()

    async def _likelihood(self, context: EngagementContext, params: GenerationParams, thinking: str) -> Likelihood:
        if params.mode == "direct":
            return await context.answer_logprob_direct()
        return await context.answer_logprob_with_thinking(thinking, params.mode, thinking_prefix=params.thinking_prefix)

    # --- metrics ---

    def _count(self, output: GenerationOutput | None, verdict: Verdict, params: GenerationParams) -> None:
        if output is not None:
            self._ctx.count_generated(len(output.token_ids))
            self._metrics.prompt_tokens.inc(output.prompt_tokens)
            self._metrics.cached_tokens.inc(output.cached_tokens)
        if params.is_for_training:
            tenant = current_tenant()
            self._metrics.generated.labels(tenant=tenant).inc()
            if verdict.label == "accepted":
                self._metrics.accepted.labels(tenant=tenant, hinted=str(params.hinted).lower()).inc()
            else:
                self._metrics.rejected.labels(tenant=tenant, reason=verdict.reason or "unjudged").inc()
