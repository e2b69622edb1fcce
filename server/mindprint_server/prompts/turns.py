"""Writes the assistant's turn after a prompt, as text and as token ids.

The turn is tokenized in stretches, by the rule that the trainer follows too (`mindprint.token_stretches`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mindprint.chat_format import ChatFormat
from mindprint.token_stretches import continue_ids
from mindprint_server.engine.base import Tokenizer
from mindprint_server.prompts import thinking as thinking_text
from mindprint_server.prompts.types import Prompt


@dataclass(frozen=True)
class TurnWriter:
    """Writes turns in a model's chat format."""

    tokenizer: Tokenizer

    @property
    def chat_format(self) -> ChatFormat:
        """The model's chat format."""
        return self.tokenizer.chat_format

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts before which a generation of thinking stops."""
        return (self.chat_format.close_tag,)

    def begin_thinking(self, prompt: Prompt, thinking_prefix: str = "") -> Prompt:
        """Return a prompt of a thinking mode up to where thinking is generated.

        Args:
            prompt: The rendered prompt.
            thinking_prefix: The text with which the thinking is made to begin.
        """
        opening = self.chat_format.opening
        opened = prompt if not opening else self._encoded(prompt, prompt.text + opening)
        return self._continued(opened, thinking_prefix.strip())

    def close_thinking(self, prompt: Prompt, thinking: str, *, thinking_prefix: str, answer_prefix: str) -> Prompt:
        """Return a prompt of a thinking mode up to where the answer is generated or scored.

        Args:
            prompt: The rendered prompt.
            thinking: The whole thinking.
            thinking_prefix: The text with which it was made to begin.
            answer_prefix: Words before the answer.
        """
        prefix, rest = thinking_text.split(thinking, thinking_prefix)
        begun = self.begin_thinking(prompt, prefix)
        return self._continued(begun, rest + self.thinking_suffix(answer_prefix))

    def thinking_suffix(self, answer_prefix: str) -> str:
        """Return the text between a thinking and the space before its answer."""
        return self.chat_format.think_close + thinking_text.split_answer_prefix(answer_prefix)[0]

    def direct_answer(self, answer: str) -> str:
        """Return an answer as a model writes it in direct mode."""
        return answer if self.chat_format.begins_thinking else self.chat_format.gap + answer

    def answer_after_thinking(self, answer: str, answer_prefix: str) -> str:
        """Return an answer as a model writes it after a thinking and the answer prefix."""
        return thinking_text.split_answer_prefix(answer_prefix)[1] + answer

    def answer_ids(self, before: str, answer: str) -> list[int]:
        """Return the token ids of an answer.

        Args:
            before: The text before the answer, or its end.
            answer: The answer, as one of the two methods above returns it.
        """
        return continue_ids(self.tokenizer.encode, before, answer)

    def chat_fields(
        self, body: Mapping[str, Any], messages: Sequence[Mapping[str, Any]], *, thinking: bool
    ) -> dict[str, Any]:
        """Return the fields of a chat request by which the engine renders and ends a turn as this class does.

        Args:
            body: The caller's request.
            messages: What the model reads.
            thinking: Whether the turn begins with a thinking.
        """
        chat_format = self.chat_format
        fields: dict[str, Any] = {"messages": chat_format.arrange(messages, thinking=thinking)}
        given = body.get("chat_template_kwargs") or {}
        # Another type is left to the engine, which refuses it.
        if isinstance(given, Mapping) and (given or chat_format.switch(thinking=thinking)):
            fields["chat_template_kwargs"] = chat_format.select_arguments(given, thinking=thinking)
        if not thinking and isinstance(body.get("reasoning_effort"), str):
            # vLLM hands it to the template, and switches the thinking of some templates on (0.32).
            fields["reasoning_effort"] = None
        if chat_format.bos == "added":
            fields["add_special_tokens"] = True
        return fields

    def _encoded(self, prompt: Prompt, text: str) -> Prompt:
        return replace(prompt, text=text, ids=self.tokenizer.encode(text))

    def _continued(self, prompt: Prompt, text: str) -> Prompt:
        ids = prompt.ids + continue_ids(self.tokenizer.encode, prompt.text, text)
        return replace(prompt, text=prompt.text + text, ids=ids)
