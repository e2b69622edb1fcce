"""Read a conversation that is kept as a tree, as in the export of ChatGPT (`conversations.json`).

Each edit of a turn and each new answer is a branch. The branch that ends at `current_node` is the one that the user saw
last: the others are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAPPING = "mapping"


def last_branch(conversation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the messages of the branch that the user saw last, in OpenAI's format with their times.

    Args:
        conversation: Has the nodes by id under `mapping`, and the id of the last one as `current_node`.
    """
    nodes = conversation.get(MAPPING)
    found: list[dict[str, Any]] = []
    seen: set[str] = set()
    id = conversation.get("current_node")
    while isinstance(nodes, Mapping) and isinstance(id, str) and id not in seen:
        seen.add(id)
        node = nodes.get(id)
        if not isinstance(node, Mapping):
            break
        if isinstance(message := node.get("message"), Mapping):
            found.append(_message(message))
        id = node.get("parent")
    return found[::-1]


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    author, content = message.get("author"), message.get("content")
    parts = content.get("parts") if isinstance(content, Mapping) else None
    texts = [part for part in parts if isinstance(part, str)] if isinstance(parts, list) else []
    role = author.get("role") if isinstance(author, Mapping) else None
    return {"role": role, "content": "\n".join(texts), "create_time": message.get("create_time")}
