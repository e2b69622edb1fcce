"""Generates the thinking before an answer, and shows it while it is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from mindprint.chat_format import TemplateRefused
from mindprint.types import Mode
from mindprint_server.adapters.health import outcome_of
from mindprint_server.chat.bounds import ThinkingRoom, read_max_tokens
from mindprint_server.chat.fallback import AnswerPlan
from mindprint_server.chat.messages import build_messages, template_arguments, template_messages
from mindprint_server.chat.progress import Progress
from mindprint_server.chat.request import ChatRequest
from mindprint_server.context import ServerContext
from mindprint_server.engine import ChatParameters, GenerationOutput, Priority, PromptTooLong, Sampling
from mindprint_server.engine.sampling import create_sampling
from mindprint_server.exceptions import Invalid
from mindprint_server.prompts import thinking
from mindprint_server.prompts.builder import TEMPLATE_RESERVE_TOKENS
from mindprint_server.prompts.templates import memory_text, prefix_with_reminders
from mindprint_server.prompts.turns import TurnWriter
from mindprint_server.prompts.types import Prompt, RecalledMemory
from mindprint_server.verdicts.checks import ThinkingChecker

SAMPLED = ("top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")
"""Parameters of a request that hold for its thinking as for its answer, beside temperature and seed."""


MAX_TOKEN_CHARS = 128
"""Characters of a token, at most: those of runs of blanks in known vocabularies."""
NEUTRAL: Mapping[str, float] = {
    "temperature": 0,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "repetition_penalty": 1,
}
"""Values under which these parameters leave a thinking as the gate measured it: greedy."""


class Collapsed(Exception):
    """A thinking loops or says nothing."""


@dataclass(frozen=True)
class Asked:
    """What is thought about.

    Attributes:
        request: The caller's request.
        parameters: What it says about the tokens.
        memory: What was recalled of its user; None for the base model.
    """

    request: ChatRequest
    parameters: ChatParameters
    memory: RecalledMemory | None

    @property
    def is_sampled_otherwise(self) -> bool:
        """Return whether the caller's parameters change the thinking, so that a collapse may come of them."""
        given = {name: getattr(self.parameters, name) for name in NEUTRAL}
        if self.request.thinking_temperature is not None:
            given["temperature"] = self.request.thinking_temperature
        return any(value is not None and value != NEUTRAL[name] for name, value in given.items())

    def left(self, progress: Progress) -> int | None:
        """Return how many tokens may still be written, for thinking and answer together; None: as many as fit."""
        most = self.parameters.max_tokens
        return None if most is None else max(0, most - progress.tokens)


class Thinker:
    """Generates thinking.

    Args:
        ctx: Settings, engine and metrics of the server.
        turns: Writes turns in the model's chat format.
    """

    def __init__(self, ctx: ServerContext, turns: TurnWriter) -> None:
        self._ctx = ctx
        self._settings = ctx.settings
        self._engine = ctx.engine
        self._turns = turns
        self._checker = ThinkingChecker(ctx.settings)

    async def think(
        self, asked: Asked, messages: Sequence[Mapping[str, Any]], plan: AnswerPlan, progress: Progress
    ) -> Prompt | None:
        """Generate the thinking of an answer.

        Args:
            asked: What is thought about.
            messages: What the model reads.
            plan: Who thinks, and in which mode.
            progress: Gets the thinking while it is written.

        Returns:
            The prompt that goes on after the thinking; None if the caller's `max_tokens` cut it. It is not judged then.

        Raises:
            Collapsed: The thinking loops or says nothing.
            Invalid: The messages do not fit the template, or the model's length with thinking and answer.
        """
        prefix = self._prefix(plan.mode, asked.memory)
        prompt = self.render(messages, thinking=True, arguments=template_arguments(asked.request.body, thinking=True))
        begun = self._turns.begin_thinking(prompt, prefix)
        left = asked.left(progress)
        most = self._bound(begun, asked, left)
        progress.begin(len(begun.ids))
        generated = await self._generate(begun, self._sampling(asked, most), prefix, plan, progress)
        if left is not None and len(generated.token_ids) >= left:
            return None
        reasoning = thinking.finalize_thinking(prefix, generated.text, generated.finish)
        reason = self._checker.check(reasoning, thinking_prefix=prefix, mode=plan.mode, finish=generated.finish)
        # A thinking that the model's length cut short is not to blame for its few words.
        is_cut_short = most < self._settings.max_thinking_tokens and len(generated.token_ids) >= most
        if outcome_of(reason) == "collapsed" and not (is_cut_short and reason == "empty"):
            raise Collapsed
        return self._turns.close_thinking(
            prompt, reasoning, thinking_prefix=prefix, answer_prefix=self._settings.answer_prefix
        )

    async def _generate(
        self, begun: Prompt, sampling: Sampling, prefix: str, plan: AnswerPlan, progress: Progress
    ) -> GenerationOutput:
        written: GenerationOutput | None = None
        outputs = self._engine.stream(begun.ids, sampling, adapter=plan.adapter, priority=Priority.INTERACTIVE)
        try:
            async with aclosing(outputs):
                async for written in outputs:
                    await progress.update((prefix.strip() + written.text).strip(), len(written.token_ids))
        except PromptTooLong as error:
            raise Invalid("prompt_too_long", str(error), param="messages") from error
        finally:
            self._ctx.count_generated(0 if written is None else len(written.token_ids))
        assert written is not None
        return written

    def _bound(self, begun: Prompt, asked: Asked, left: int | None) -> int:
        """Return how many tokens the thinking may have. Refuse what does not fit before anything is generated."""
        settings, tokenizer = self._settings, self._engine.tokenizer
        room = ThinkingRoom(
            prompt=len(begun.ids),
            closing=len(tokenizer.encode(self._turns.thinking_suffix(settings.answer_prefix))),
            model=self._engine.info().max_model_len,
            max_tokens=left,
            field="max_tokens" if asked.request.body.get("max_completion_tokens") is None else "max_completion_tokens",
        )
        return room.bound_thinking(settings.max_thinking_tokens, settings.min_answer_tokens)

    def _sampling(self, asked: Asked, most: int) -> Sampling:
        """Return the request's sampling parameters. Without a temperature the thinking is greedy."""
        given = asked.parameters
        temperature = asked.request.thinking_temperature
        if temperature is None:
            temperature = given.temperature or 0.0
        sampling = create_sampling(
            self._settings,
            max_tokens=most,
            temperature=temperature,
            seed=given.seed,
            stop=self._turns.stop,
        )
        chosen = {name: value for name in SAMPLED if (value := getattr(given, name)) is not None}
        return replace(sampling, **chosen)

    def has_room(self, request: ChatRequest, mode: Mode, memory: RecalledMemory) -> bool:
        """Return whether the prompt of a chat with this memory leaves room for thinking and answer.

        Raises:
            Invalid: The template refuses the messages, or they hold other parts than texts.
        """
        settings, tokenizer, thinks = self._settings, self._engine.tokenizer, mode != "direct"
        written = read_max_tokens(request.body)
        if written is None:
            written = settings.min_answer_tokens + (settings.max_thinking_tokens if thinks else 0)
        limit = self._engine.info().max_model_len - TEMPLATE_RESERVE_TOKENS - written
        told = memory_text(memory, tokenizer.special)
        built = build_messages(request.messages, mode, told, request.choices, tokenizer.special)
        arguments = template_arguments(request.body, thinking=thinks)
        text = self._render_text(built, thinking=thinks, arguments=arguments)
        if thinks:
            text += self._prefix(mode, memory)
        # No token is shorter than a byte, so that a short text need not be tokenized. Nor a text that is far too long:
        # tokenizing it would keep all other requests waiting.
        if len(text) > limit * MAX_TOKEN_CHARS:
            return False
        return len(text.encode()) <= limit or len(tokenizer.encode(text)) <= limit

    def _prefix(self, mode: Mode, memory: RecalledMemory | None) -> str:
        prefix = self._settings.thinking_prefixes.get(mode, "")
        if mode == "personal" and memory is not None:
            return prefix_with_reminders(prefix, memory, self._engine.tokenizer.special)
        return prefix

    def direct_prompt(self, body: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> Prompt | None:
        """Return the prompt of a direct answer if a thinking must be closed in it; None lets the backend render."""
        chat_format = self._turns.chat_format
        if not (chat_format.direct_suffix or chat_format.begins_thinking):
            return None
        return self.render(messages, thinking=False, arguments=template_arguments(body, thinking=False))

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, thinking: bool, arguments: Mapping[str, Any] | None = None
    ) -> Prompt:
        """Render messages with the model's template.

        Raises:
            Invalid: The template refuses them, or they hold other parts than texts.
        """
        text = self._render_text(messages, thinking=thinking, arguments=arguments)
        return Prompt(text, self._engine.tokenizer.encode(text), 0)

    def _render_text(
        self, messages: Sequence[Mapping[str, Any]], *, thinking: bool, arguments: Mapping[str, Any] | None
    ) -> str:
        try:
            return self._engine.tokenizer.render(template_messages(messages), thinking=thinking, arguments=arguments)
        except TemplateRefused as error:
            raise Invalid("template_refused", str(error), param="messages") from error
