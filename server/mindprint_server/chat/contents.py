"""Checks the messages of a chat request, and reads the parts of their contents. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mindprint_server.exceptions import Invalid

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
"""Roles of messages that OpenAI's API knows."""
TEXT_PARTS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
}
"""Types of content parts that are texts, as vLLM has them, each with the field that holds the text."""

FILE_PARTS = ("file", "input_file")
"""Types of content parts of OpenAI's that vLLM does not know."""


def check_messages(messages: object) -> list[dict[str, Any]]:
    """Return the messages of a request. Only one of an assistant may have no content.

    Args:
        messages: What the request has as its messages.

    Raises:
        Invalid: There are none, or one has a role that OpenAI's API does not know, or no content.
    """
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise Invalid("validation_error", "messages must be a list of at least one message", param="messages")
    for place, message in enumerate(messages):
        if message.get("role") not in ROLES:
            # A chat template writes the role into the prompt, so an odd one could begin another turn.
            text = f"messages[{place}]: role must be one of {', '.join(ROLES)}"
            raise Invalid("validation_error", text, param="messages")
        if why := _fault_of_content(message):
            raise Invalid("validation_error", f"messages[{place}].content {why}", param=f"messages[{place}].content")
    return messages


def _fault_of_content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if content is None:
        return "" if message["role"] == "assistant" else "is missing: send a text"
    if isinstance(content, list):
        return next((why for place, part in enumerate(content) if (why := _fault_of_part(place, part))), "")
    return "" if isinstance(content, str) else "must be a text or a list of parts"


def _fault_of_part(place: int, part: Any) -> str:
    if isinstance(part, str):
        return ""
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str):
        return f"has a part without a type at place {place}: send an object with type and text"
    if kind in FILE_PARTS:
        return f"has a part of type {kind} at place {place}, and files are not taken: send a text"
    if (field := TEXT_PARTS.get(kind)) and not isinstance(part.get(field), str):
        return f"has a part of type {kind} without a text at place {place}: send it as {field}"
    return ""


def part_text(part: Any) -> str | None:
    """Return the text of a part of a content; None if it is no text."""
    if isinstance(part, dict):
        kind = part.get("type")
        part = part.get(TEXT_PARTS.get(kind, "")) if isinstance(kind, str) else None
    return part if isinstance(part, str) else None


def reject_other_parts(messages: Sequence[Mapping[str, Any]], where: str) -> None:
    """Reject contents with parts other than texts.

    Args:
        messages: Messages whose text parts are joined.
        where: What takes no other parts, for the message.

    Raises:
        Invalid: A content holds another part.
    """
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else []:
            if part_text(part) is None:
                kind = part.get("type") if isinstance(part, dict) else type(part).__name__
                text = f"{where} take no content part of type {str(kind)[:40]!r}: send texts only"
                raise Invalid("validation_error", text, param="messages")
