"""Replies that only callers see: pages of lists, and OpenAI's chat and model objects as far as Mindprint uses them."""

from __future__ import annotations

from typing import Any

from pydantic import AliasChoices, ConfigDict, Field

from mindprint.types import Engagement, Reply, User


class UserPage(Reply):
    users: list[User]
    next: str | None = None


class EngagementPage(Reply):
    engagements: list[Engagement]
    next: str | None = None


class ModelEntry(Reply):
    id: str


class ModelList(Reply):
    data: list[ModelEntry]


class ChatMessage(Reply):
    role: str = "assistant"
    content: str | None = None
    reasoning_content: str | None = Field(
        None, validation_alias=AliasChoices("reasoning_content", "reasoning"), serialization_alias="reasoning_content"
    )


class ChatChoice(Reply):
    message: ChatMessage
    finish_reason: str | None = None


class ChatUsage(Reply):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class ChatReply(Reply):
    """An answer; fields beyond OpenAI's (what made it) are kept as they came."""

    model_config = ConfigDict(extra="allow")

    id: str
    model: str
    choices: list[ChatChoice] = Field(min_length=1)
    usage: ChatUsage | None = None

    @property
    def text(self) -> str:
        return self.choices[0].message.content or ""

    @property
    def thinking(self) -> str:
        return self.choices[0].message.reasoning_content or ""


class ChatDelta(Reply):
    """A piece of a streamed answer: of its thinking, of its text, or of neither (the last one, with `finish`)."""

    text: str = ""
    thinking: str = ""
    finish: str | None = None

    @classmethod
    def from_chunk(cls, chunk: dict[str, Any]) -> ChatDelta:
        """From one `chat.completion.chunk`; chunks without choices (usage) are empty."""
        choices = chunk.get("choices") or [{}]
        delta = choices[0].get("delta") or {}
        return cls(
            text=delta.get("content") or "",
            thinking=delta.get("reasoning_content") or delta.get("reasoning") or "",
            finish=choices[0].get("finish_reason"),
        )
