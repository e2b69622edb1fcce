"""OpenAI's routes, described as `calls` describes Mindprint's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict, TypeVar, Unpack

from mindprint.replies import ChatDelta, ChatReply, ModelList
from mindprint.streaming import AnswerText, ChatPieces, Decoder
from mindprint.transport import Call, Stream, get, nothing, post, reply_of
from mindprint.types import AskedMode

T = TypeVar("T")
Messages = str | Sequence[Mapping[str, Any]]
"""One question, or OpenAI's list of messages."""


class ChatOptions(TypedDict, total=False):
    """What a chat may name; None and what is left out are the server's choice."""

    model: str
    """`base` (default), `user/<id>` or `cohort/<name>`, optionally `@<version>`."""
    mode: AskedMode
    max_tokens: int | None
    temperature: float | None
    seed: int | None


_chat = reply_of(ChatReply)
_models = reply_of(ModelList)


def models() -> Call[ModelList]:
    """What `chat` takes as `model`."""
    return get("/v1/models", _models)


def chat(messages: Messages, **options: Unpack[ChatOptions]) -> Call[ChatReply]:
    """One answer. `user/<id>` as `model` brings that user's memory and live adapter."""
    return post("/v1/chat/completions", _chat, _chat_body(messages, options), slow=True)


def chat_stream(messages: Messages, **options: Unpack[ChatOptions]) -> Stream[str]:
    """The pieces of an answer's text as they are written."""
    return _chat_pieces(_chat_body(messages, options), AnswerText)


def chat_deltas(messages: Messages, **options: Unpack[ChatOptions]) -> Stream[ChatDelta]:
    """The pieces of thinking and answer as they are written."""
    return _chat_pieces(_chat_body(messages, options), ChatPieces)


def _chat_pieces(body: dict[str, Any], decoder: Callable[[], Decoder[T]]) -> Stream[T]:
    return Stream(post("/v1/chat/completions", nothing, {**body, "stream": True}, slow=True), decoder)


def _chat_body(messages: Messages, options: ChatOptions) -> dict[str, Any]:
    if unknown := options.keys() - ChatOptions.__annotations__:
        raise TypeError(f"chat takes no {', '.join(sorted(unknown))}")
    asked = [{"role": "user", "content": messages}] if isinstance(messages, str) else [dict(m) for m in messages]
    chosen = {name: value for name, value in options.items() if value is not None}
    return {"model": "base", "messages": asked, **chosen}
