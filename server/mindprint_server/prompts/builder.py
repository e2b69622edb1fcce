"""Builds the prompt of a question: as much memory as fits the model, then the query and the mode's line."""

from __future__ import annotations

from mindprint.types import Mode
from mindprint_server.engine import PromptTooLong
from mindprint_server.engine.base import Tokenizer
from mindprint_server.prompts.memory_fit import first_that_fits, shorter_memories
from mindprint_server.prompts.templates import build, clean, prefix_with_reminders, remove_special
from mindprint_server.prompts.types import Prompt, Question, RecalledMemory
from mindprint_server.settings import Settings

TEMPLATE_RESERVE_TOKENS = 64
"""Tokens kept free for the text around thinking and answer: tags, the answer prefix, the end of the turn."""


class PromptBuilder:
    """Renders questions with the model's chat template, within the model's context length."""

    def __init__(self, settings: Settings, tokenizer: Tokenizer, *, max_model_len: int) -> None:
        self._settings = settings
        self._tokenizer = tokenizer
        self._max_model_len = max_model_len

    def build(self, question: Question, mode: Mode, *, thinking_tokens: int, hint: str | None = None) -> Prompt:
        """Build a prompt with as much of the memory as fits, together with the thinking and the answer.

        The oldest episodes are dropped first, then the profile.

        Args:
            question: What is asked, with the memory that belongs to its time.
            mode: Decides the last line of the prompt, and nothing else.
            thinking_tokens: Tokens to keep free for the thinking.
            hint: The user's real answer, shown in place of the mode's line; None shows no answer.

        Raises:
            PromptTooLong: The query does not fit even without any memory.
        """
        tokenizer = self._tokenizer
        # The same space is reserved in every mode, so that all modes of a question see the same memory.
        reminder_tokens = len(tokenizer.encode(prefix_with_reminders("", question.memory, tokenizer.special)))
        reserved = thinking_tokens + reminder_tokens + self._settings.max_answer_tokens + TEMPLATE_RESERVE_TOKENS
        limit = self._max_model_len - reserved
        choices = question.choices if question.show_choices else None
        memories = list(shorter_memories(question.memory))

        def attempt(dropped: int) -> Prompt | None:
            messages = build(memories[dropped], question.query, choices, mode, tokenizer.special, hint)
            text = tokenizer.render(messages, thinking=mode != "direct")
            ids = tokenizer.encode(text)
            return Prompt(text, ids, dropped) if len(ids) <= limit else None

        if (prompt := first_that_fits(attempt, len(memories))) is None:
            message = f"the query leaves fewer than {reserved} tokens for thinking and answer: shorten the query"
            raise PromptTooLong(message)
        return prompt

    def thinking_prefix(self, mode: Mode, memory: RecalledMemory) -> str:
        """Return the text with which thinking begins in this mode, with the memory's reminders in personal mode."""
        thinking_prefix = self._settings.thinking_prefixes.get(mode, "")
        return (
            prefix_with_reminders(thinking_prefix, memory, self._tokenizer.special)
            if mode == "personal"
            else thinking_prefix
        )

    def clean(self, text: str) -> str:
        """Return a user's text without anything that could end a turn or a thinking."""
        return clean(text, self._tokenizer.special)

    def remove_special(self, text: str) -> str:
        """Return a text without special tokens, and otherwise as it is."""
        return remove_special(text, self._tokenizer.special)

    def unfit(self, question: Question) -> str | None:
        """Return why no thinking can be generated about a question (`no_history` or `no_answer`); None if it can."""
        if not question.memory.episodes and not question.memory.profile:
            return "no_history"
        if question.choices is None and not self.clean(question.target or ""):
            return "no_answer"
        return None
