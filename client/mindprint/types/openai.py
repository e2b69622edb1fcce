"""OpenAI's chat and model objects, as far as Mindprint uses them."""

from __future__ import annotations

from typing import Any

from pydantic import AliasChoices, ConfigDict, Field

from mindprint.types.base import Reply


class ModelEntry(Reply):
    """One name that a chat request may give as `model`."""

    id: str


class ModelList(Reply):
    """Names that a chat request may give as `model`."""

    data: list[ModelEntry]
    has_more: bool = False
    """Whether there is another page: `after` with the id of the last entry gives it."""


class ChatMessage(Reply):
    """The assistant's message: its answer, and its thinking where the mode has one."""

    role: str = "assistant"
    content: str | None = None
    reasoning_content: str | None = Field(
        None, validation_alias=AliasChoices("reasoning_content", "reasoning"), serialization_alias="reasoning_content"
    )


class ChatChoice(Reply):
    """One answer and why it ended: `stop`, or `length` when it reached `max_tokens`."""

    message: ChatMessage
    finish_reason: str | None = None


class ChatUsage(Reply):
    """Tokens of the prompt, and of what was written: thinking and answer together."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class ChatCompletion(Reply):
    """An answer. Fields that OpenAI does not have, such as `mindprint` with the provenance, are kept.

    `model` is the name that was asked; `version` is what answered.
    """

    model_config = ConfigDict(extra="allow")

    id: str
    model: str
    choices: list[ChatChoice] = Field(min_length=1)
    usage: ChatUsage | None = None

    @property
    def text(self) -> str:
        """Return the answer's text, empty if there is none."""
        return self.choices[0].message.content or ""

    @property
    def version(self) -> str:
        """Return the version that answered, such as `user/ann@3`; `base` is the base model. Empty if it is not told."""
        return str((self.model_extra or {}).get("mindprint", {}).get("model", ""))

    @property
    def thinking(self) -> str:
        """Return the thinking before the answer, empty if there is none."""
        return self.choices[0].message.reasoning_content or ""


class ChatDelta(Reply):
    """A piece of a streamed answer: thinking, text, or neither (the last piece, which carries `finish`)."""

    text: str = ""
    thinking: str = ""
    finish: str | None = None

    @classmethod
    def from_chunk(cls, chunk: dict[str, Any]) -> ChatDelta:
        """Read one `chat.completion.chunk`; a chunk without choices (usage) gives an empty piece.

        Raises:
            AttributeError, LookupError, TypeError, ValidationError: `chunk` has another form.
        """
        choices = chunk.get("choices") or [{}]
        delta = choices[0].get("delta") or {}
        return cls(
            text=delta.get("content") or "",
            thinking=delta.get("reasoning_content") or delta.get("reasoning") or "",
            finish=choices[0].get("finish_reason"),
        )
