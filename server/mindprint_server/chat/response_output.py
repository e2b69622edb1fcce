"""Writes chat answers in the form of OpenAI's Responses API: whole, or as its events. Pure."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

ECHOED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}
"""Fields of the request that a response repeats, with their values where the request has none."""


class ResponseWriter:
    """Builds one response from the pieces of a chat answer, and tells each step as an event.

    A whole answer is one piece. The items of the output follow each other: a new kind of piece closes the item before.

    Args:
        request: The request of the Responses API.
    """

    def __init__(self, request: Mapping[str, Any]) -> None:
        self._output: list[dict[str, Any]] = []
        self._open: int | str | None = None
        """What the last item is about while it is open: `reasoning`, `message`, or the index of a tool call."""
        self._finish: str | None = None
        self._count = 0
        self._response: dict[str, Any] = {
            "id": _new_id("resp"),
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "model": request["model"],
            "output": self._output,
            "error": None,
            "incomplete_details": None,
            "previous_response_id": None,
            "store": False,
            "usage": None,
            **{name: default if request.get(name) is None else request[name] for name, default in ECHOED.items()},
        }

    def begin(self) -> Iterator[str]:
        """Write the first events."""
        yield self._event("response.created", response=self._response)
        yield self._event("response.in_progress", response=self._response)

    def add(self, chunk: Mapping[str, Any]) -> Iterator[str]:
        """Add a chat completion, or a chunk of its stream, and write the events for it.

        Args:
            chunk: In OpenAI's form. Of several choices the first counts.
        """
        if usage := chunk.get("usage"):
            self._response["usage"] = _usage(usage)
        if "mindprint" in chunk:
            self._response["mindprint"] = chunk["mindprint"]
        for choice in chunk.get("choices") or ():
            piece = choice.get("delta") or choice.get("message") or {}
            if thinking := piece.get("reasoning") or piece.get("reasoning_content"):
                yield from self._add_text("reasoning", thinking)
            if content := piece.get("content"):
                yield from self._add_text("message", content)
            for position, call in enumerate(piece.get("tool_calls") or ()):
                yield from self._add_call(call.get("index", position), call)
            self._finish = choice.get("finish_reason") or self._finish

    def end(self) -> Iterator[str]:
        """Close the last item, and write the last event."""
        is_cut = self._finish == "length"
        yield from self._close("incomplete" if is_cut else "completed")
        self._response["status"] = "incomplete" if is_cut else "completed"
        if is_cut:
            self._response["incomplete_details"] = {"reason": "max_output_tokens"}
        yield self._event(f"response.{self._response['status']}", response=self._response)

    def fail(self, error: Mapping[str, Any]) -> Iterator[str]:
        """Write the last events of an answer that an error ended.

        Args:
            error: The error in OpenAI's envelope.
        """
        yield from self._close("incomplete")
        yield self._event("error", **{name: error.get(name) for name in ("code", "message", "param")})
        self._response["status"] = "failed"
        self._response["error"] = {"code": "server_error", "message": str(error.get("message"))}
        yield self._event("response.failed", response=self._response)

    def write_whole(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """Return a whole chat completion as a response."""
        for _ in (*self.add(answer), *self.end()):
            pass  # nobody streams the events
        return self._response

    def _add_text(self, kind: str, text: str) -> Iterator[str]:
        if self._open != kind:
            yield from self._close("completed")
            yield from self._open_text(kind)
        self._output[-1]["content"][0]["text"] += text
        extra: dict[str, Any] = {"logprobs": []} if kind == "message" else {}
        yield self._item_event(f"{_PARTS[kind]}.delta", content_index=0, delta=text, **extra)

    def _open_text(self, kind: str) -> Iterator[str]:
        is_message = kind == "message"
        part: dict[str, Any] = {"type": _PARTS[kind], "text": ""}
        part |= {"annotations": [], "logprobs": []} if is_message else {}
        own: dict[str, Any] = {"role": "assistant"} if is_message else {"summary": []}
        item = {"id": _new_id("msg" if is_message else "rs"), "type": kind, "status": "in_progress", **own}
        yield from self._open_item(kind, {**item, "content": []})
        self._output[-1]["content"].append(part)
        yield self._item_event("content_part.added", content_index=0, part=part)

    def _add_call(self, index: int, call: Mapping[str, Any]) -> Iterator[str]:
        function = call.get("function") or {}
        if self._open != index:
            yield from self._close("completed")
            ids = {"id": _new_id("fc"), "call_id": call.get("id") or _new_id("call")}
            item = {"type": "function_call", **ids, "name": function.get("name"), "arguments": ""}
            yield from self._open_item(index, {**item, "status": "in_progress"})
        if arguments := function.get("arguments"):
            self._output[-1]["arguments"] += arguments
            yield self._item_event("function_call_arguments.delta", delta=arguments)

    def _open_item(self, kind: int | str, item: dict[str, Any]) -> Iterator[str]:
        self._open = kind
        self._output.append(item)
        yield self._event("response.output_item.added", output_index=len(self._output) - 1, item=item)

    def _close(self, status: str) -> Iterator[str]:
        if self._open is None:
            return
        item = self._output[-1]
        item["status"] = status
        if item["type"] == "function_call":
            named = {"name": item["name"], "arguments": item["arguments"]}
            yield self._item_event("function_call_arguments.done", **named)
        else:
            (part,) = item["content"]
            extra: dict[str, Any] = {"logprobs": []} if item["type"] == "message" else {}
            yield self._item_event(f"{part['type']}.done", content_index=0, text=part["text"], **extra)
            yield self._item_event("content_part.done", content_index=0, part=part)
        yield self._event("response.output_item.done", output_index=len(self._output) - 1, item=item)
        self._open = None

    def _item_event(self, kind: str, **fields: Any) -> str:
        ids = {"item_id": self._output[-1]["id"], "output_index": len(self._output) - 1}
        return self._event(f"response.{kind}", **ids, **fields)

    def _event(self, kind: str, **fields: Any) -> str:
        data = json.dumps({"type": kind, "sequence_number": self._count, **fields}, ensure_ascii=False)
        self._count += 1
        return f"event: {kind}\ndata: {data}\n\n"


_PARTS = {"reasoning": "reasoning_text", "message": "output_text"}


def _new_id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"


def _usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    read, written = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    thinking = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": thinking},
        "total_tokens": read + written,
    }
