"""Generates single traces for `POST /v1/traces`."""

from __future__ import annotations

import asyncio

from mindprint.types import Trace, TraceRequest
from mindprint_server.adapters import AdapterService
from mindprint_server.adapters.health import outcome_of
from mindprint_server.auto_mode.service import AutoModeSelector
from mindprint_server.context import ServerContext
from mindprint_server.engine import AdapterRef, PromptTooLong
from mindprint_server.exceptions import Invalid
from mindprint_server.generation.candidate import CandidateGenerator
from mindprint_server.generation.params import GenerationParams
from mindprint_server.prompts.types import Question
from mindprint_server.sharing.admission import AdmissionController
from mindprint_server.tenancy import erasure_epoch
from mindprint_server.verdicts import checks
from mindprint_server.verdicts.context import ContextBuilder


class TraceService:
    """Generates traces for callers that wait for them."""

    def __init__(
        self,
        ctx: ServerContext,
        *,
        contexts: ContextBuilder,
        candidates: CandidateGenerator,
        adapters: AdapterService,
        auto_mode: AutoModeSelector,
        admission: AdmissionController,
    ) -> None:
        self._settings = ctx.settings
        self._store = ctx.store
        self._tokenizer = ctx.engine.tokenizer
        self._contexts = contexts
        self._candidates = candidates
        self._adapters = adapters
        self._auto_mode = auto_mode
        self._admission = admission

    async def create(self, request: TraceRequest) -> Trace:
        """Generate one trace. A trace about a stored engagement is verified and stored, one about a query is not.

        Raises:
            Invalid: The prompt is too long, or two choices have the same tokens.
            LimitExceeded: Too many requests of the tenant wait already.
            NotFound: The user, the engagement or the model does not exist.
            UserBeingErased: Data of the user is being erased.
            TimeoutError: The turn of the tenant did not come within `request_timeout_s`, or the trace took longer.
        """
        async with self._admission.enter(max_wait_s=self._settings.request_timeout_s):
            epoch = erasure_epoch()
            question = await self._contexts.questions.for_request(request)
            try:
                async with asyncio.timeout(self._settings.request_timeout_s):
                    trace = await self._generate(request, question)
            except PromptTooLong as error:
                if request.thinking is None:
                    raise Invalid("prompt_too_long", str(error), param="query") from error
                message = "query and thinking do not fit the model together: shorten them"
                raise Invalid("prompt_too_long", message, param="thinking") from error
            except ValueError as error:
                raise Invalid("choices_alike", str(error), param="choices") from error
            if question.engagement_id is None:
                return trace
            return await self._store.traces.add(trace, read_epoch=epoch)

    async def _generate(self, request: TraceRequest, question: Question) -> Trace:
        async with self._adapters.acquire(request.model) as adapter:
            params = await self._params(request, question, adapter)
            accepted = set()
            if params.is_for_training:
                accepted = checks.fingerprints(await self._store.traces.list_accepted_texts(request.user_id))
            context = self._contexts.build(
                question,
                thinking_tokens=params.max_thinking_tokens,
                adapter=adapter,
                priority=params.priority,
                accepted=accepted,
            )
            trace = (await self._candidates.generate(context, params)).trace
            if _shows_health(request, params):
                await self._adapters.report_outcome(adapter, outcome_of(trace.reason))
            return trace

    async def _params(self, request: TraceRequest, question: Question, adapter: AdapterRef | None) -> GenerationParams:
        settings, prompts = self._settings, self._contexts.prompts
        mode, mode_reason = await self._auto_mode.select(request.mode, request.user_id, adapter, question.kind)
        given = None if request.thinking is None else prompts.clean(request.thinking)
        thinking_tokens = request.max_thinking_tokens or settings.max_thinking_tokens
        if given is not None:  # long given thinking gets the tokens that it needs; the memory is cut instead
            thinking_tokens = max(thinking_tokens, len(self._tokenizer.encode(given)))
        return GenerationParams(
            mode=mode,
            thinking_prefix=prompts.thinking_prefix(mode, question.memory)
            if request.thinking_prefix is None
            else prompts.remove_special(request.thinking_prefix),
            max_thinking_tokens=thinking_tokens,
            temperature=settings.temperature if request.temperature is None else request.temperature,
            seed=request.seed,
            # Only the base model's thinking is trained on: adapters that learn from their own thinking drift.
            is_for_training=request.engagement_id is not None and request.model == "base" and mode == "personal",
            given_thinking=given,
            mode_reason=mode_reason,
        )


def _shows_health(request: TraceRequest, params: GenerationParams) -> bool:
    """Return whether the trace counts for the version's health: generated thinking with the user's own memory."""
    return params.mode != "direct" and request.thinking is None and request.memory == "own"
