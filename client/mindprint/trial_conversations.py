"""The conversations of the trial, and how they are rendered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from mindprint.chat_format import SwitchValue, TemplateRefused, as_parts, one_line

SYSTEM, SECOND_SYSTEM = "Rules of the trial.", "More rules of the trial."
QUESTION, ANSWER, SECOND_QUESTION = "First trial question?", "First trial answer", "Second trial question?"


class UnsupportedTemplate(ValueError):
    """A chat template, or its tokenizer, that cannot be served. The message is one line and says why."""


class TrialTokenizer(Protocol):
    """The parts of a transformers tokenizer that the trial needs."""

    chat_template: Any
    is_fast: bool
    bos_token: str | None
    bos_token_id: int | None
    eos_token_id: int | None
    added_tokens_decoder: Mapping[int, Any]

    def apply_chat_template(self, conversation: Any, **arguments: Any) -> Any:
        """Render a conversation."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool) -> Any:
        """Return the token ids of a text."""
        ...


class PartsTokenizer:
    """A tokenizer whose template gets the contents of messages as lists of parts.

    Args:
        tokenizer: The model's tokenizer.
    """

    def __init__(self, tokenizer: TrialTokenizer) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def apply_chat_template(self, conversation: Any, **arguments: Any) -> Any:
        """Render a conversation."""
        return self._tokenizer.apply_chat_template([as_parts(message) for message in conversation], **arguments)


def _fixed_time(_: str) -> str:
    return "Thursday"


def system_message(text: str) -> dict[str, str]:
    """Return a message of the system."""
    return {"role": "system", "content": text}


def user_message(text: str) -> dict[str, str]:
    """Return a message of a user."""
    return {"role": "user", "content": text}


def assistant_message(text: str) -> dict[str, str]:
    """Return an answer of the assistant."""
    return {"role": "assistant", "content": text}


def render(tokenizer: TrialTokenizer, messages: Any, *, generation: bool = False, **switch: SwitchValue) -> str:
    """Render a conversation.

    Raises:
        TemplateRefused: The template refuses it.
    """
    # Prompts are compared. A template may write the time.
    arguments: dict[str, Any] = {"strftime_now": _fixed_time, "add_generation_prompt": generation, **switch}
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **arguments))
    except Exception as error:  # a template raises what it likes
        raise TemplateRefused(f"the chat template refuses a conversation: {one_line(error)}") from error


def try_render(
    tokenizer: TrialTokenizer, messages: Any, *, generation: bool = False, **switch: SwitchValue
) -> str | None:
    """Render a conversation; None if the template refuses it."""
    try:
        return render(tokenizer, messages, generation=generation, **switch)
    except TemplateRefused:
        return None


def holds(tokenizer: TrialTokenizer, messages: Any, *texts: str) -> bool:
    """Return whether the template takes a conversation and writes all of some texts."""
    rendered = try_render(tokenizer, messages, generation=True)
    return rendered is not None and all(text in rendered for text in texts)
