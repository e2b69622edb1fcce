"""Builds parts of the server for tests, on an engine and a store of the test's own."""

from __future__ import annotations

from typing import Any

from mindprint_server.context import ServerContext
from mindprint_server.engine import Engine
from mindprint_server.memory.neighbors import NeighborIndex
from mindprint_server.memory.questions import QuestionBuilder
from mindprint_server.prompts.builder import PromptBuilder
from mindprint_server.settings import Settings
from mindprint_server.verdicts.context import ContextBuilder


def prompt_builder(settings: Settings, engine: Engine) -> PromptBuilder:
    """Build prompts as the server does with this engine."""
    return PromptBuilder(settings, engine.tokenizer, max_model_len=engine.info().max_model_len)


def context_builder(ctx: ServerContext, *, memory: Any, neighbors: Any = None) -> ContextBuilder:
    """Build contexts as the server does. `memory` and `neighbors` may be stand-ins."""
    return ContextBuilder(
        ctx=ctx,
        prompts=prompt_builder(ctx.settings, ctx.engine),
        questions=QuestionBuilder(ctx, memory=memory),
        neighbors=neighbors or NeighborIndex(ctx),
    )
