"""Read lists of messages in OpenAI's format, and write them as one text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mindprint.importers.rows import text

MAX_TRANSCRIPT = 60_000
"""Characters of a transcript. The oldest messages are left out above it: a prompt holds 65,536."""
_SHOWN = {"user": "User", "assistant": "Assistant"}
_ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant"}


@dataclass(frozen=True)
class Message:
    """A message of a user or an assistant.

    Attributes:
        role: `user` or `assistant`.
        text: What it says.
        place: Its place in the list, from 0.
        raw: The message as it stands in the file.
    """

    role: str
    text: str
    place: int = 0
    raw: Mapping[str, Any] | None = None


def messages_of(value: object) -> list[Message]:
    """Return the messages of users and assistants that say something. Those of the system and of tools are left out."""
    return [message for message in all_messages(value) if message.text]


def all_messages(value: object) -> list[Message]:
    """Return the messages of users and assistants, also those without a text, such as one with an image only."""
    found = []
    for place, raw in enumerate(value if isinstance(value, list) else []):
        if not isinstance(raw, Mapping):
            continue
        role = text(raw.get("role") or raw.get("from")).lower()
        said = content_text(raw.get("content") if "content" in raw else raw.get("value"))
        if (role := _ROLES.get(role, role)) in _SHOWN:
            found.append(Message(role, said, place, raw))
    return found


def content_text(content: object) -> str:
    """Return the text of a message's content: a text, or the text parts of a list."""
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, Mapping)]
        return "\n".join(said for part in parts if (said := text(part.get("text"))))
    return text(content)


def transcript(messages: Sequence[Message] | Iterable[Message]) -> str:
    """Return messages as one text: a single one as it is, more with `User:` and `Assistant:` before each."""
    said = [message for message in messages if message.text]
    if len(said) == 1:
        return said[0].text
    lines: list[str] = []
    size = 0
    for message in reversed(said):
        line = f"{_SHOWN[message.role]}: {message.text}"
        size += len(line) + 2
        if lines and size > MAX_TRANSCRIPT:
            break
        lines.append(line)
    return "\n\n".join(reversed(lines))
