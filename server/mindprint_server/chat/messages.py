"""Reads chat requests, builds the messages for the model, and completes its answers, in OpenAI's form. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from mindprint.types import AskedMode, Mode
from mindprint.types.keys import MODEL_NAME_LENGTH, ModelName
from mindprint_server.exceptions import Invalid, NotFound
from mindprint_server.prompts.templates import query_text, remove_special

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
"""Roles of messages that OpenAI's API knows."""
TEXTS = ("messages", "tools", "documents", "chat_template_kwargs")
"""Fields whose texts a chat template may write into the prompt."""


def read_model(body: Mapping[str, Any]) -> ModelName:
    """Read the model's name from a request.

    Raises:
        NotFound: The name has not the form of a model's name.
    """
    model = body.get("model")
    try:
        if isinstance(model, str) and len(model) <= MODEL_NAME_LENGTH:
            return ModelName(model)
    except ValueError:
        pass
    message = "model must be base, user/<id> or cohort/<name>, the latter two optionally with @<version>"
    raise NotFound("model_not_found", message, param="model")


def parse_model_name(model: str) -> tuple[str | None, str]:
    """Split a model's name into its kind (`user`, `cohort`, or None for the base model) and the name behind it."""
    key = ModelName(model).key
    return (None, model) if key is None else (key.kind, key.name)


def read_messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Read the messages from a request.

    Raises:
        Invalid: There are none, or one has a role that OpenAI's API does not know.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise Invalid("validation_error", "messages must be a list of at least one message", param="messages")
    if any(message.get("role", "user") not in ROLES for message in messages):
        # A chat template writes the role into the prompt, so an odd one could begin another turn.
        raise Invalid("validation_error", f"role must be one of {', '.join(ROLES)}", param="messages")
    return messages


def remove_special_tokens(body: Mapping[str, Any], special: Sequence[str]) -> dict[str, Any]:
    """Return the request without special tokens in the texts that a chat template writes into the prompt.

    Args:
        body: The request.
        special: Texts of the special tokens.
    """
    return {field: _remove_special(value, special) if field in TEXTS else value for field, value in body.items()}


def _remove_special(value: Any, special: Sequence[str]) -> Any:
    if isinstance(value, str):
        return remove_special(value, special)
    if isinstance(value, list):
        return [_remove_special(item, special) for item in value]
    if isinstance(value, dict):
        return {remove_special(key, special): _remove_special(item, special) for key, item in value.items()}
    return value


def reject_unsupported(body: Mapping[str, Any], unsupported: Mapping[str, str]) -> None:
    """Reject fields that the engine cannot serve.

    Args:
        body: The request.
        unsupported: `Engine.unsupported_fields`.

    Raises:
        Invalid: The request sets such a field.
    """
    for field, message in unsupported.items():
        if body.get(field) is not None:
            raise Invalid("validation_error", message, param=field)


def read_mode(value: object) -> AskedMode:
    """Read the `mode` of a request.

    Raises:
        Invalid: There is no such mode.
    """
    for mode in get_args(AskedMode):
        if value == mode:
            return mode  # type: ignore[no-any-return]
    raise Invalid("validation_error", "mode must be direct, generic, personal or auto", param="mode")


def add_mode_line(messages: Sequence[dict[str, Any]], mode: Mode, special: Sequence[str]) -> list[dict[str, Any]]:
    """Return the messages with the mode's line in the last one, as the prompt templates write a query.

    Args:
        messages: The caller's messages.
        mode: Mode of the answer.
        special: Texts of the special tokens, which are removed.

    Raises:
        Invalid: The last message is not a user's text, or a message has no role or text.
    """
    last = messages[-1]
    if last.get("role") != "user" or not isinstance(last.get("content"), str):
        message = "for user/… models and thinking modes the last message must be of role user, with text content"
        raise Invalid("validation_error", message, param="messages")
    if not all(
        isinstance(message.get("content"), str) and isinstance(message.get("role"), str) for message in messages
    ):
        raise Invalid("validation_error", "every message needs a role and text content", param="messages")
    return [*messages[:-1], {**last, "content": query_text(last["content"], None, mode, special)}]


def prepend_memory(messages: Sequence[dict[str, Any]], memory: str) -> list[dict[str, Any]]:
    """Put the memory before the caller's system message, so that the requests of a user share its beginning."""
    if messages[0].get("role") == "system":
        system, rest = messages[0]["content"], messages[1:]
        return [{"role": "system", "content": f"{memory}\n\n{system}"}, *rest]
    return [{"role": "system", "content": memory}, *messages]


def build_messages(
    messages: list[dict[str, Any]], mode: Mode, memory: str | None, special: Sequence[str]
) -> list[dict[str, Any]]:
    """Build the messages that the model reads: memory, the caller's messages, and the line of the mode.

    Args:
        messages: The caller's messages.
        mode: Mode of the answer.
        memory: Text of the memory. None for the base model, whose direct questions stay as they are.
        special: Texts of the special tokens, which are removed.

    Raises:
        Invalid: See `add_mode_line`.
    """
    if memory is None:
        return messages if mode == "direct" else add_mode_line(messages, mode, special)
    return prepend_memory(add_mode_line(messages, mode, special), memory)


def add_reasoning(answer: dict[str, Any], reasoning: str, provenance: dict[str, Any]) -> dict[str, Any]:
    """Return a chat completion with its thinking and provenance added.

    Args:
        answer: The chat completion; it is changed.
        reasoning: The thinking, for `reasoning_content`; empty for none.
        provenance: What made the answer, for `mindprint`.
    """
    for choice in answer.get("choices", []):
        if reasoning:
            choice["message"]["reasoning_content"] = reasoning
        if isinstance(choice["message"].get("content"), str):
            choice["message"]["content"] = choice["message"]["content"].lstrip()
    return {**answer, "mindprint": provenance}


def add_reasoning_to_chunk(line: str, reasoning: str, provenance: dict[str, Any]) -> str:
    """Return the first line of an event stream with thinking and provenance added; other lines do not change.

    Args:
        line: The line, with its `data: ` prefix.
        reasoning: The thinking, for `reasoning_content`; empty for none.
        provenance: What made the answer, for `mindprint`.
    """
    head, _, data = line.partition("data: ")
    try:
        chunk = json.loads(data)
    except ValueError:
        return line
    if head or not isinstance(chunk, dict) or "error" in chunk:
        return line
    for choice in chunk.get("choices", []):
        if reasoning:
            choice["delta"]["reasoning_content"] = reasoning
    return f"data: {json.dumps({**chunk, 'mindprint': provenance}, ensure_ascii=False)}\n\n"
