"""Provenance: the model, prompt, sampling and memory that made a trace, so that it can be reproduced."""

from __future__ import annotations

from typing import Any

from mindprint.types import Provenance
from mindprint_server.context import ServerContext
from mindprint_server.engine import AdapterRef
from mindprint_server.generation.params import GenerationParams, thinking_sampling
from mindprint_server.prompts.templates import PROMPT_VERSION
from mindprint_server.prompts.types import Prompt, Question


def generated_provenance(
    ctx: ServerContext, question: Question, prompt: Prompt, params: GenerationParams, adapter: AdapterRef | None
) -> Provenance:
    """Return the provenance of a trace that was generated here, or answered here after a given thinking.

    Args:
        ctx: Settings and engine of the server.
        question: What was asked.
        prompt: The prompt without a hint.
        params: How the thinking was generated.
        adapter: The version that generated; None is the base model.
    """
    sampling: dict[str, Any] = {"thinking": "imported"}
    if params.given_thinking is None:
        sampling = {**thinking_sampling(params, ctx.settings).provenance(), "thinking_prefix": params.thinking_prefix}
    return _provenance(
        ctx,
        question,
        prompt,
        model=adapter.name if adapter else "base",
        adapter_digest=adapter.digest if adapter else None,
        mode=params.mode,
        sampling=sampling,
        seed=params.seed,
        saw_answer=params.hinted,
        mode_reason=params.mode_reason,
    )


def imported_provenance(
    ctx: ServerContext, question: Question, prompt: Prompt, *, thinking_prefix: str, saw_answer: bool
) -> Provenance:
    """Return the provenance of a trace whose thinking was written elsewhere.

    Args:
        ctx: Settings and engine of the server.
        question: The engagement's question.
        prompt: The prompt that this server makes of it.
        thinking_prefix: The server's thinking prefix if the thinking begins with it; else empty.
        saw_answer: Whether its author saw the real answer.
    """
    return _provenance(
        ctx,
        question,
        prompt,
        model="imported",
        adapter_digest=None,
        mode="personal",
        sampling={"thinking": "imported", "thinking_prefix": thinking_prefix},
        seed=None,
        saw_answer=saw_answer,
    )


def _provenance(
    ctx: ServerContext, question: Question, prompt: Prompt, *, sampling: dict[str, Any], **fields: Any
) -> Provenance:
    info = ctx.engine.info()
    sampling = {**sampling, "answer_prefix": ctx.settings.answer_prefix, "memory": question.memory_of}
    if not question.show_choices:
        sampling["show_choices"] = False
    return Provenance(
        base_digest=info.base_digest,
        prompt_version=PROMPT_VERSION,
        engine=info.name,
        sampling=sampling,
        profile_version=question.profile_version,
        memory_dropped=prompt.dropped,
        **fields,
    )
