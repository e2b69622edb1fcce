"""OpenAI's routes: `client.chat.completions` and `client.models`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict, TypeVar, Unpack

from mindprint._methods import Method, Resource, SenderT, StreamMethod
from mindprint.streaming import AnswerText, ChatPieces, Decoder
from mindprint.transport import Call, Stream, get_call, post_call, read_nothing, reply_of
from mindprint.types import AskedMode, ChatCompletion, ChatDelta, ModelList

T = TypeVar("T")
Messages = str | Sequence[Mapping[str, Any]]
"""One question, or OpenAI's list of messages."""


class ChatOptions(TypedDict, total=False):
    """Options of a chat request. For an option that is None or absent the server's default holds."""

    model: str
    """`base` (default), `user/<id>` or `cohort/<name>`, optionally `@<version>`."""
    mode: AskedMode
    choices: Sequence[str] | None
    """Answers that a closed question allows. The prompt lists them, and `mode: auto` decides by them."""
    max_tokens: int | None
    """Most tokens of thinking and answer together."""
    temperature: float | None
    thinking_temperature: float | None
    """Temperature of the thinking, if it is another one than the answer's."""
    seed: int | None


_completion = reply_of(ChatCompletion)
_models = reply_of(ModelList)


class ModelsResource(Resource[SenderT]):
    """The names that a chat request may give as `model`."""

    @Method
    def list(self, *, limit: int = 1000, after: str | None = None) -> Call[ModelList]:
        """List the models: `base`, the adapters that have a live version, and their versions.

        Args:
            limit: Size of the page, 1 to 1000.
            after: Last id of the previous page; None starts at the beginning.
        """
        return get_call("/v1/models", _models, limit=limit, after=after)


class CompletionsResource(Resource[SenderT]):
    """Chat completions. With `user/<id>` as `model` that user's memory and live version answer."""

    @Method
    def create(self, messages: Messages, **options: Unpack[ChatOptions]) -> Call[ChatCompletion]:
        """Answer a chat request.

        Args:
            messages: One question, or OpenAI's list of messages.
            **options: See `ChatOptions`.

        Raises:
            TypeError: An option is not one of `ChatOptions`.
        """
        return post_call("/v1/chat/completions", _completion, _chat_body(messages, options), slow=True)

    @StreamMethod
    def stream(self, messages: Messages, **options: Unpack[ChatOptions]) -> Stream[ChatDelta]:
        """Stream the pieces of thinking and answer while they are generated; parameters as in `create`."""
        return _streamed(_chat_body(messages, options), ChatPieces)

    @StreamMethod
    def stream_text(self, messages: Messages, **options: Unpack[ChatOptions]) -> Stream[str]:
        """Stream the text of the answer without its thinking; parameters as in `create`."""
        return _streamed(_chat_body(messages, options), AnswerText)


class ChatResource(Resource[SenderT]):
    """OpenAI's chat routes."""

    def __init__(self, client: SenderT) -> None:
        super().__init__(client)
        self.completions = CompletionsResource(client)


def _streamed(body: dict[str, Any], decoder: Callable[[], Decoder[T]]) -> Stream[T]:
    return Stream(post_call("/v1/chat/completions", read_nothing, {**body, "stream": True}, slow=True), decoder)


def _chat_body(messages: Messages, options: ChatOptions) -> dict[str, Any]:
    if unknown := options.keys() - ChatOptions.__annotations__:
        raise TypeError(f"chat takes no {', '.join(sorted(unknown))}")
    turns = (
        [{"role": "user", "content": messages}]
        if isinstance(messages, str)
        else [dict(message) for message in messages]
    )
    chosen = {name: value for name, value in options.items() if value is not None}
    return {"model": "base", "messages": turns, **chosen}
